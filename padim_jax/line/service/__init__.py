"""Models behind HTTP: images come as requests, decisions go back and into the store, people correct them on a page.

Built on Starlette, which is routing, requests and responses on ASGI and nothing more, and on uvicorn, which serves it:
both are small, widely used and typed, and h11, which parses what comes over the wire, is strict. What reads untrusted
bytes beyond that is here and bounded: a body is received whole within its limits before anything looks into it, and an
image's announced size is checked before it is decoded.

One thread computes (:mod:`padim_jax.line.service.worker`); requests wait for it in a queue with a limit, and those that
wait together are computed together.
"""
