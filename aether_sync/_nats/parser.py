"""nats-py's parser, made to end the connection when the server sends what it cannot understand."""

from nats.errors import Error, ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from .fast_reader import LARGEST_MESSAGE, LONGEST_LINE

__all__ = ["SteadyParser"]


class SteadyParser(Parser):
    """Ends the connection when something cannot be understood; nats-py would log that, and read no more."""

    received = 0  # bytes ever

    async def parse(self, data: bytes = b"") -> None:
        """Parse bytes that have arrived."""
        self.received += len(data)
        try:
            await super().parse(data)
            self._check_what_is_left()
        except OSError:
            raise
        except Exception as error:
            self.nc.abandon(Error(f"what the server sends is not the NATS protocol ({type(error).__name__})"))
            raise ProtocolError from error

    def error_text(self) -> str:
        """Return the text of the ``-ERR`` that nats-py is handling, as the server wrote it; empty if there is none."""
        verb, _, text = self.buf[: max(self.buf.find(b"\r\n"), 0)].partition(b" ")
        return text.strip(b"' ").decode(errors="replace") if verb == b"-ERR" else ""

    def _check_what_is_left(self) -> None:
        if self.state != AWAITING_CONTROL_LINE:
            if self.needed > LARGEST_MESSAGE:
                raise ProtocolError
        elif b"\r\n" in self.buf or len(self.buf) > LONGEST_LINE:  # the line is not of the protocol, or never ends
            raise ProtocolError
