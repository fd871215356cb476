# The app in a container, on the CPU or on an NVIDIA GPU:
#
#   docker build -t tour --build-arg TORCH_INDEX=... .
#   docker run -p 7860:7860 -v tour:/cache tour
#
#   docker build -t tour --build-arg DEVICE=cuda .
#   docker run --gpus all -p 7860:7860 -v tour:/cache tour
#
# Options of the app go behind the name of the image; its environment variables work with -e.

ARG PYTHON=3.11
FROM python:${PYTHON}-slim

WORKDIR /app

# The usual index may have PyTorch with CUDA only, which is several gigabytes; TORCH_INDEX is the address of one
# with builds for the CPU, such as PyTorch's own. The rest is the same for both.
ARG DEVICE=cpu
ARG TORCH_INDEX=
COPY requirements.txt ./
RUN case "$DEVICE" in \
      cpu) [ -z "$TORCH_INDEX" ] || pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
             "$(grep -o '^torch==[^ ]*' requirements.txt)" ;; \
      cuda) ;; \
      *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir -r requirements.txt

RUN useradd --create-home --uid 1000 tour \
    && mkdir /cache \
    && chown tour:tour /cache

COPY app.py LICENSE README.md ./
COPY checkpoints checkpoints
COPY components components
COPY demos demos

# Models stay in the volume when the container goes.
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    HF_HOME=/cache/huggingface \
    TOUR_CACHE=/cache/transformer-tour \
    PYTHONUNBUFFERED=1
USER 1000
VOLUME /cache
EXPOSE 7860

# Alive, not ready: a model that is being downloaded is no reason to start the app again. It asks where the app
# was told to listen, by options behind the image's name as well.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-m", "components.server.health"]

# As a list, so that the app itself is told to stop, and lets its runs finish.
ENTRYPOINT ["python", "app.py"]
