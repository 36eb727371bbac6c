"""An ASGI application: uvicorn asgi:app"""

from app import BODY


async def app(scope, receive, send):
    if scope["type"] != "http":
        # The protocol's way to say that it does not do that: the server goes on without.
        raise NotImplementedError(scope["type"])
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY.encode()})
