"""
What can go wrong, named for whose move it is.

::

    DsrError
    ├── ConfigError      the operator edits the file
    ├── Foreign          the operator decides about an object that is not ours
    ├── Undecided        the operator writes which of several readings is meant
    ├── Unsupported      the host lacks something (a module, a kernel feature)
    ├── NotPermitted     the operator gives the agent the right it needs
    ├── NotYet           the host: something we wait for is not there yet
    ├── Transient        nobody: we try again
    └── Bug              us: please report it

Each carries one sentence for a person; `remedy`, where there is one, is what to do or to write instead.
"""


class DsrError(Exception):
    """Base of everything this program reports; `str()` is a sentence an operator can act on."""

    move = "nobody"

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}" if self.remedy else self.problem

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))


class ConfigError(DsrError):
    """The file cannot be used as it stands; the operator edits it. Holds every refusal at once."""

    move = "operator"

    def __init__(self, refusals: tuple[str, ...]) -> None:
        super().__init__("\n".join(refusals))
        self.refusals = refusals


class Foreign(DsrError):
    """Something that is not ours stands in the way; it is left alone, and the operator decides."""

    move = "operator"


class Undecided(DsrError):
    """The host allows more than one reading of the file; the operator writes which one is meant."""

    move = "operator"


class Unsupported(DsrError):
    """The host cannot do this: a module, a kernel feature or a device is missing."""

    move = "host"


class NotPermitted(DsrError):
    """The kernel refuses this process; the operator gives it the capability named in the text."""

    move = "operator"


class NotYet(DsrError):
    """Something this waits for is not there yet (an address, a route, a device); it may come by itself."""

    move = "host"


class Transient(DsrError):
    """The kernel refused for a reason that may pass; the next pass tries again."""

    move = "retry"


class Bug(DsrError):
    """A case this program did not foresee; please report it."""

    move = "bug"
