"""Every error that Motley raises on purpose.

MotleyError                 one sentence and a remedy; the CLI prints it and exits 2
├── UsageError              a wrong flag, name, TOML or request
├── FormatError             a file that is truncated, corrupt or hostile: names the field or tensor
│   └── UnsupportedError    a sound file that needs something Motley does not have
├── CapacityError           it does not fit the memory at hand: says how much is missing
├── CheckFailed             a proof did not hold (exit status 1)
└── ClusterError            something between machines
    ├── LinkError           a link broke, timed out or carried a malformed frame
    └── NodeLost            a node ended or stopped answering
"""


class MotleyError(Exception):
    """Base class; `str(error)` is meant for the user's eyes."""


class UsageError(MotleyError):
    pass


class FormatError(MotleyError):
    pass


class UnsupportedError(FormatError):
    pass


class CapacityError(MotleyError):
    pass


class CheckFailed(MotleyError):
    pass


class ClusterError(MotleyError):
    pass


class LinkError(ClusterError):
    pass


class NodeLost(ClusterError):
    pass
