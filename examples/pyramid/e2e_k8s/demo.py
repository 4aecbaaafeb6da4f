"""The views. Edit the sum below while the app runs, and ask again."""

from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import FileResponse, Response

STATIC = Path(__file__).resolve().parent / "static"


def add(request):
    """Answers the sum of the two numbers in the path."""
    x = int(request.matchdict["x"])
    y = int(request.matchdict["y"])
    return Response(text=f"{x + y}\n", content_type="text/plain")


def index(request):
    """Sends the page, read from disk each time: editing it needs no restart."""
    return FileResponse(STATIC / "index.html", request=request, cache_max_age=0)


def make_app():
    """Builds the WSGI application."""
    with Configurator() as config:
        config.add_route("index", "/")
        config.add_view(index, route_name="index")
        config.add_route("add", r"/add/{x:-?\d+}/{y:-?\d+}")
        config.add_view(add, route_name="add")
        return config.make_wsgi_app()
