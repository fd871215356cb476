"""Spectrogram: what does a speech model see of a sound, and where in it does its decoder listen?

Numbers are numpy in, numpy out; the figures are plotly's, on a transparent ground that style.css colours.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components.compute.transcripts import Segment
from components.inputs import audio

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_COLUMNS = 600  # of a figure; more would be narrower than a pixel
MOST_STRETCHES = 1000  # of an envelope, two points each
MOST_LABELLED = 40  # words that are written on a waveform; more would lie on one another
MOST_TOKENS = 100  # down a figure
PADDING_SHOWN = 1.0  # seconds after the end of the sound
TICKS = 9  # frequencies that are named
SCALE = 100  # pixels below a figure, for the time and a colour scale
BLUE, ORANGE = "#0072b2", "#e69f00"  # Okabe and Ito's


def log_mel(extractor: Any, samples: np.ndarray) -> np.ndarray:
    """What Whisper sees of a window: its log-Mel spectrogram [Mel bins, frames], padded with silence.

    samples: float32 [samples], mono, 16 kHz, at most a window. A frame is 10 ms further than the last.
    Section 2.2 of Radford et al. 2022.
    """
    features = extractor([samples], sampling_rate=audio.RATE, return_tensors="np").input_features
    return np.asarray(features[0], dtype=np.float32)


def mel_centres(bins: int) -> np.ndarray:
    """Frequency [bins] in Hz in the middle of each Mel bin, from low to high.

    Slaney's Mel scale (Auditory Toolbox, 1998), even up to 1 kHz and logarithmic above, as in Whisper's
    feature extractor: from 0 to half of the sampling rate.
    """
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    highest = hertz_to_mel(audio.RATE / 2, mel_scale="slaney")
    return np.asarray(mel_to_hertz(np.linspace(0.0, highest, bins + 2), mel_scale="slaney"))[1:-1]


def pooled(values: np.ndarray, size: int) -> np.ndarray:
    """Means of `size` neighbours along the last axis; the last one of what is left over."""
    starts = np.arange(0, values.shape[-1], size)
    counts = np.diff(np.append(starts, values.shape[-1]))
    return np.add.reduceat(values, starts, axis=-1) / counts


def neighbours(columns: int) -> int:
    """How many columns make one, so that no more than MOST_COLUMNS are left."""
    return max(1, -(-columns // MOST_COLUMNS))


def envelope(samples: np.ndarray, most: int = MOST_STRETCHES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each of at most `most` stretches begins, in seconds, and its lowest and its highest sample."""
    size = max(1, -(-samples.size // most))
    starts = np.arange(0, samples.size, size)
    if not samples.size:
        return starts / audio.RATE, np.zeros(0, np.float32), np.zeros(0, np.float32)
    return starts / audio.RATE, np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)


def outside(weights: np.ndarray, inside: int) -> float:
    """The mean share of attention `[query, position]` that lies on positions after the first `inside`."""
    return float(weights[:, inside:].sum(axis=1).mean()) if len(weights) else 0.0


def spectrogram_figure(mel: np.ndarray, sound: float, start: float = 0.0) -> go.Figure:
    """A log-Mel spectrogram [Mel bins, frames] in seconds and Hz, viridis.

    sound: seconds of it that are no padding, of which only the first second is drawn; start: of the
    window, in seconds of the recording.
    """
    import plotly.graph_objects as go

    step = audio.RATE // 100 / audio.RATE
    shown = mel[:, : max(1, round((sound + PADDING_SHOWN) / step))]
    size = neighbours(shown.shape[1])
    columns = pooled(shown, size)
    bins, lowest = len(mel), float(columns.min())
    names = [f"{centre:,.0f} Hz" for centre in mel_centres(bins)]
    ticks = np.unique(np.linspace(0, bins - 1, min(TICKS, bins)).round().astype(int))
    figure = go.Figure(
        go.Heatmap(
            z=columns.astype(np.float32),
            x0=start + step * size / 2,
            dx=step * size,
            y=names,
            colorscale="Viridis",
            zmin=lowest,
            zmax=max(float(columns.max()), lowest + 1),  # silence is dark all over
            hovertemplate="%{x:.2f} s, %{y}: %{z:.2f}<extra></extra>",
            colorbar=_scale("log power"),
        ),
        {
            **_layout("Log-Mel spectrogram", 420, SCALE),
            "xaxis": {"title": {"text": "time in s"}},
            "yaxis": {
                "type": "category",  # bins are the axis: they are what the model sees, evenly
                "tickvals": [names[tick] for tick in ticks],
                "title": {"text": "middle of the Mel bin"},
                "automargin": True,
            },
        },
    )
    if mel.shape[1] * step - sound > step:
        figure.add_vline(x=start + sound, line={"color": "white", "dash": "dot", "width": 1})
    return figure


def waveform_figure(
    samples: np.ndarray,
    start: float = 0.0,
    words: Sequence[Segment] = (),
    marked: tuple[float, float] | None = None,
    title: str = "Waveform",
) -> go.Figure:
    """The waveform of samples [samples] at 16 kHz from `start` on, in seconds, with the words on it.

    It is drawn as its envelope. words: with times on the same clock; marked: a stretch to stand out.
    """
    import plotly.graph_objects as go

    seconds, low, high = envelope(samples)
    seconds = (seconds + start).astype(np.float32)
    reach = max(float(np.abs(samples).max(initial=0.0)), 1e-4)
    edge = {"mode": "lines", "line": {"color": BLUE, "width": 1}, "showlegend": False}
    traces: list[Any] = [
        go.Scatter(x=seconds, y=low, hoverinfo="skip", **edge),
        go.Scatter(
            x=seconds,
            y=high,
            fill="tonexty",
            fillcolor=BLUE,
            hovertemplate="%{x:.2f} s<extra></extra>",
            **edge,
        ),
    ]
    labels = []
    if words:
        texts = [html.escape(word.text) for word in words]
        middles = [(word.start + word.end) / 2 for word in words]
        traces.append(
            go.Bar(
                x=middles,
                y=[2 * reach] * len(words),
                base=-reach,
                width=[max(word.end - word.start, 0.02) for word in words],
                marker={"color": ORANGE, "opacity": 0.3, "line": {"color": ORANGE, "width": 1}},
                customdata=[(text, word.start, word.end) for text, word in zip(texts, words, strict=True)],
                hovertemplate="%{customdata[0]}: %{customdata[1]:.2f} to %{customdata[2]:.2f} s"
                "<extra></extra>",
                showlegend=False,
            )
        )
        if len(words) <= MOST_LABELLED:
            labels = [
                {"x": x, "y": 1.04 * reach, "text": text, "textangle": -90, "yanchor": "bottom"}
                | {"showarrow": False, "font": {"size": 11}}
                for x, text in zip(middles, texts, strict=True)
            ]
    longest = max((len(word.text) for word in words), default=0) if labels else 0
    top = reach * (1.1 + 0.11 * min(longest, 20))  # room for the longest word, set upright
    end = start + samples.size / audio.RATE
    figure = go.Figure(
        traces,
        {
            **_layout(title, 300 if words else 200),
            "xaxis": {"title": {"text": "time in s"}, "range": [start, end], "showgrid": False},
            "yaxis": {
                "title": {"text": "amplitude"},
                "range": [-1.05 * reach, top],
                "tickvals": [-reach, 0, reach],
                "tickformat": ".2~g",
                "showgrid": False,
                "zeroline": False,
            },
            "annotations": labels,
            "hovermode": "closest",
        },
    )
    if marked:
        figure.add_vrect(x0=marked[0], x1=marked[1], fillcolor=ORANGE, opacity=0.3, line_width=0)
    return figure


def listening_figure(
    weights: np.ndarray, tokens: Sequence[str], step: float, sound: float, start: float = 0.0, title: str = ""
) -> go.Figure:
    """Cross-attention `[query, position]` of written tokens to the sound: tokens down, seconds across.

    step: seconds from one position to the next; sound: seconds that are no padding, which is not drawn;
    start: of the window. Columns are sums of neighbours where there are too many. Raises ValueError if
    the tokens do not match.
    """
    import plotly.graph_objects as go

    if len(weights) != len(tokens):
        raise ValueError(f"weights {weights.shape} for {len(tokens)} tokens")
    # Plotly reads markup in labels.
    names = [html.escape(token) for token in tokens[:MOST_TOKENS]]
    shown = weights[:MOST_TOKENS, : max(1, round(sound / step))]
    size = neighbours(shown.shape[1])
    columns = pooled(shown, size) * size
    return go.Figure(
        go.Heatmap(
            z=columns.astype(np.float32),
            x0=start + step * size / 2,
            dx=step * size,
            colorscale="Viridis",
            zmin=0,
            hovertemplate="%{y} listens at %{x:.2f} s: %{z:.4f}<extra></extra>",
            colorbar=_scale("weight"),
        ),
        {
            **_layout(title, max(400, 190 + 16 * len(names)), SCALE),
            "xaxis": {"title": {"text": "key: time in s"}},
            # Positions, not tokens, are the axis: a token may occur twice.
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "tickfont": {"size": 11},
                "title": {"text": "query: token written"},
                "autorange": "reversed",
                "automargin": True,
            },
        },
    )


def _scale(name: str) -> dict[str, Any]:
    """A colour scale below the figure: beside it, it would take half of a phone's width."""
    below = {"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "thickness": 10}
    return {**below, "nticks": 4, "tickangle": 0, "title": {"text": name, "side": "right"}}


def _layout(title: str, height: int, below: int = 10) -> dict[str, Any]:
    """below: pixels under the axis."""
    return {
        "title": {"text": title, "font": {"size": 12}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 10, "r": 10, "t": 50, "b": below},
        "height": height,
    }
