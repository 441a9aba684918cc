"""What a server can be told; every limit has a default that a small machine can bear."""

import dataclasses
import ipaddress
import os

#: Where a token is read from that should stand neither in a file nor in the list of processes.
TOKEN_VARIABLE = 'JAX_PROMPT_TOKEN'


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How a server listens, and what it refuses.

    Attributes:
      host: address to listen on; only this machine can reach the default.
      port: at most 65535; 0 for a free one.
      token: bearer token; the environment's JAX_PROMPT_TOKEN unless given. Uploading and removing
        prompts always ask for it and are refused where there is none; everything but the page and
        the health checks asks for it where other machines can reach the server.
      batch_size: most rows of a batch.
      max_wait: seconds that a request may wait for others to share its batch.
      max_queue: requests that may wait at one time; more are refused with 503.
      time_limit: seconds after which a request that is not answered gets 504.
      read_limit: seconds in which a request's body must have arrived; a connection that is kept
        open without a further request is closed after as many, and at least 5.
      max_body: bytes of a request's body.
      max_upload: bytes of a prompt file that is uploaded.
      max_text: characters of a request's inputs, all columns together.
      max_tokens: most tokens that a request may ask for.
      max_labels: most labels that a request may bring along, each of at most 200 characters.
      num_beams: of the beam search that requests may ask for; 1 for none, which spares its
        programs.
      max_connections: open at one time; while there are more, requests are refused with 503.
      warm_up_length: encoder positions up to which the programs of the prompts' own tasks are
        compiled as the server starts; it is ready with the first of them, for the longest input,
        which shorter ones are padded to until theirs is there. What else a request can ask for (a
        longer input, other lengths of text, labels of its own, the plain model) is compiled for
        when the first comes.
      prompt_rows: rows of all prompts together that there is room for to begin with; when they run
        out the room doubles, and all programs are compiled once more.
      poll: seconds between looks into the folder of prompts.
      drain: seconds after SIGTERM in which requests are still taken, so that whoever sends them
        can see that the server is no longer ready.
      log: folder for a sample of the requests, which `jax-prompt monitor` looks for drift in; None
        for none. Its `about.json` says what each line holds: lengths, the label that was answered
        and how sure it is.
      log_share: of the answered requests that it holds, drawn by chance.
      log_texts: keep the texts of requests, and what was written, too.
      log_limit: bytes of the log of one server; then the oldest lines go.

    Raises:
      ValueError: for a limit that lets nothing through, a port that cannot be, or an open address
        without a token.
    """

    host: str = '127.0.0.1'
    port: int = 8000
    token: str | None = dataclasses.field(
        default_factory=lambda: os.environ.get(TOKEN_VARIABLE))
    batch_size: int = 32
    max_wait: float = 0.005
    max_queue: int = 1024
    time_limit: float = 60.0
    read_limit: float = 15.0
    max_body: int = 256 * 1024
    max_upload: int = 64 * 2**20
    max_text: int = 50_000
    max_tokens: int = 512
    max_labels: int = 64
    num_beams: int = 1
    max_connections: int = 2048
    warm_up_length: int = 128
    prompt_rows: int = 4096
    poll: float = 1.0
    drain: float = 1.0
    log: str | None = None
    log_share: float = 0.01
    log_texts: bool = False
    log_limit: int = 64 * 2**20

    def __post_init__(self):
        for name in ('batch_size', 'max_queue', 'time_limit', 'read_limit', 'max_body',
                     'max_upload', 'max_text', 'max_tokens', 'max_connections', 'num_beams',
                     'warm_up_length', 'prompt_rows', 'poll', 'log_limit'):
            if getattr(self, name) <= 0:
                raise ValueError(f'{name}={getattr(self, name)} for the server; expected more '
                                 'than 0')
        for name in ('max_wait', 'drain', 'port'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name}={getattr(self, name)} for the server; expected 0 or more')
        if self.port > 65535:
            raise ValueError(f'port={self.port} for the server; expected at most 65535, or 0 for a '
                             'free one')
        if not 0 < self.log_share <= 1:
            raise ValueError(f'log_share={self.log_share} for the server; expected more than 0 and '
                             'at most 1, or no log')
        if self.max_labels < 2:
            raise ValueError(f'max_labels={self.max_labels} for the server; expected at least 2')
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii()
                                       or not self.token.isprintable() or ' ' in self.token):
            raise ValueError('the token has fewer than 8 characters, or some that a header cannot '
                             'carry; choose one of 8 or more letters, digits and signs')
        if not self.is_loopback and self.token is None:
            raise ValueError(f'host {self.host} can be reached from other machines, so a token is '
                             f'needed; set {TOKEN_VARIABLE} in the environment, or listen on '
                             '127.0.0.1')

    @property
    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach the server."""
        if self.host == 'localhost':
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
