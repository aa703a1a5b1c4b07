"""The page at /docs. Its assets come from a package, so that it works offline."""

import gzip
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from nutshell.conditional import accepts_gzip

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
# Swagger UI's tables need 425 pixels. On a phone, put their columns below each other.
STYLE = b"""<style>@media (max-width: 640px) {
.swagger-ui .wrapper, .swagger-ui .responses-inner, .swagger-ui .parameters-container { padding: 8px }
.swagger-ui table:is(.parameters, .responses-table) :is(tr, td) { display: block; max-width: 85vw }
.swagger-ui table.responses-table .response-col_links, .swagger-ui thead { display: none }
}</style></head>"""
VERSION = version("fastapi-swagger")  # in the URLs, so that browsers can cache the assets for ever


def add_docs(app: FastAPI) -> None:
    app.add_api_route("/docs", read_docs, include_in_schema=False)
    app.add_api_route("/docs/{name}", read_asset, include_in_schema=False)


async def read_docs(request: Request) -> Response:
    root = request.scope["root_path"]
    script, style, icon = (f"{root}/docs/{name}?{VERSION}" for name in ASSETS)
    page = get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=request.app.title,
        swagger_js_url=script,
        swagger_css_url=style,
        swagger_favicon_url=icon,
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )
    return HTMLResponse(bytes(page.body).replace(b"</head>", STYLE, 1))


@cache
def load_asset(name: str) -> tuple[bytes, bytes]:
    """Returns the asset, plain and compressed. Compressing takes a tenth of a second, so it is cached."""
    content = files("fastapi_swagger.resources").joinpath(name).read_bytes()
    return content, gzip.compress(content, mtime=0)


async def read_asset(name: str, request: Request) -> Response:
    if name not in ASSETS:
        raise HTTPException(404)
    content, compressed = load_asset(name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if accepts_gzip(request):
        content = compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, headers=headers, media_type=ASSETS[name])
