"""How the laboratory says that it, and not the command in it, failed."""

STATUS_TIMEOUT = 124
STATUS_LABORATORY = 125


class Failure(Exception):
    """A sentence for the user, and the exit status to end with."""

    def __init__(self, sentence, status=STATUS_LABORATORY):
        super().__init__(sentence)
        self.status = status
