"""What a PromQL expression asks for."""

import promql_parser


def matched_labels(expression: str) -> list[tuple[str, set[str]]]:
    """Each selected metric's name, and the labels that it is selected by.

    Raises:
        ValueError: the expression is not PromQL.
    """
    selected: list[tuple[str, set[str]]] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            selected.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return selected


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression selects."""
    return {name for name, _ in matched_labels(expression)}
