"""A page that answers texts and files with the predictions of a trained run, for this machine or a network.

    python scripts/serve.py --load_path runs/quickstart/atl/seed_1
    curl --data-binary @docs.json http://127.0.0.1:8000/api/predict
    curl --data-binary @docs.json 'http://127.0.0.1:8000/api/predict?form=ttl' --output graph.ttl

Needs scripts/requirements/serve.txt. docs/use.md says more ("A local web page").
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import logging
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

from hingeabl.errors import UserError, need, print_warning, run_command_line
from hingeabl.prediction.answers import Limits
from hingeabl.prediction.choices import add_prediction_options, prediction_options
from hingeabl.prediction.predictor import Predictor
from hingeabl.training.saved_run import refuse_file
from hingeabl.training.settings import positive_int

PACKAGES = ("fastapi", "uvicorn", "python_multipart")
CONNECTIONS = 512  # at once; more are refused


def need_packages() -> None:
    """Raise UserError for a package of scripts/requirements/serve.txt that is not installed."""
    remedy = "pip install -r scripts/requirements/serve.txt"
    for name in PACKAGES:
        need(name, f"{name.replace('_', '-')} is not installed, which the page needs; {remedy}")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`; port 0 is any free one. Raises UserError if that fails."""
    try:
        family, socket_type, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket_type)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise UserError(f"--port {port}: is in use; name another one") from None
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot be listened on ({reason}); name another one") from None
    return listener


def port_number(text: str) -> int:
    """A port, for argparse."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"must be 0 to {2**16 - 1}, not {number}")
    return number


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    default = Limits()
    parser = argparse.ArgumentParser(description="Answer texts and files with the predictions of a trained run.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=port_number, default=8000, help="default: 8000; 0 is any free one")
    parser.add_argument("--device", help="default: CUDA where there is one")
    for name, value, description in (
        ("max_bytes", default.max_bytes, "bytes of a request"),
        ("max_waiting", default.max_waiting, "requests that wait while one is worked on"),
        ("timeout", int(default.timeout), "seconds until a request is given up"),
    ):
        parser.add_argument(f"--{name}", type=positive_int, default=value, help=f"{description}; default: {value:,}")
    add_prediction_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C; `arguments` default to the command line's."""
    args = parse_args(arguments)
    need_packages()
    refuse_file(args.load_path)
    import uvicorn

    from hingeabl.prediction.server import make_app

    with listening(args.host, args.port) as listener:
        address, port = listener.getsockname()[:2]
        predictor = Predictor.from_run(args.load_path, args.device, args.precision, **prediction_options(args))
        predictor.read("Anna.")  # loads what reads text
        limits = Limits(max_bytes=args.max_bytes, max_waiting=args.max_waiting, timeout=args.timeout)
        app = make_app(predictor, limits, args.host)
        if not ipaddress.ip_address(address).is_loopback:
            print_warning(
                f"--host {args.host}: whoever reaches this machine over the network can use the page; "
                "127.0.0.1 keeps it to this machine"
            )
        name = f"[{address}]" if ":" in address else address
        print(f"http://{name}:{port}/ answers with {args.load_path}; Ctrl-C ends it; more in docs/use.md", flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith("Cancel "))
        with contextlib.suppress(KeyboardInterrupt):  # after which nothing needs to be said
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    run_command_line(main)
