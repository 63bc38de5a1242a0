"""A classifier behind HTTP: `tlcli serve`. The only room that imports FastAPI and uvicorn."""
