"""The one error of the reference decoder."""


class Refused(Exception):
    """The archive or model breaks a rule of the specification, or is damaged."""


def require(condition, rule):
    """Refuses with `rule` unless `condition` holds."""
    if not condition:
        raise Refused(rule)
