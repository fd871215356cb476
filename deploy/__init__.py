"""Deploy: how the app gets to where others can open it."""
