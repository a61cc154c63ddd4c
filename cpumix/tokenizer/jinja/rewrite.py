"""Puts counting into a parsed template, where Jinja has no hook for it.

Jinja's sandbox can intercept calls, filters, tests and operators. Left are loops, comparisons,
joining by "~", slices and keys of dictionaries: each gets a filter around a part of it, whose name
no template can write.
"""

from __future__ import annotations

from jinja2 import TemplateAssertionError, nodes
from jinja2.visitor import NodeTransformer

NODE = 8  # steps of a node of a template, each time that it is run
WEIGH, SLICE, TICK = " weigh", " slice", " tick"
# What does not run exactly once whenever the node around it runs.
_BODIES: dict[type[nodes.Node], tuple[str, ...]] = {
    nodes.For: ("body", "else_", "test"),
    nodes.If: ("body", "else_"),
    nodes.Macro: ("body",),
    nodes.CallBlock: ("body",),
    nodes.Block: ("body",),
}


def count_work(template: nodes.Template) -> nodes.Template:
    """Return a template that counts its own work; what it writes stays the same."""
    counted = _Counting().visit(template)
    assert isinstance(counted, nodes.Template)
    counted.body.insert(0, _tick_statement(_steps(counted.body)))
    return counted


class _Counting(NodeTransformer):
    def generic_visit(self, node: nodes.Node) -> nodes.Node:
        visited = super().generic_visit(node)
        for name in _BODIES.get(type(visited), ()):
            body = getattr(visited, name)
            if isinstance(body, list) and (body or name == "body"):
                body.insert(0, _tick_statement(_steps(body)))
            elif isinstance(body, nodes.Expr):
                setattr(visited, name, nodes.And(_tick(_steps([body])), body))
        return visited

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_filter(part, WEIGH) for part in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        if len(node.ops) == 1 and node.ops[0].op in ("in", "notin"):
            test = nodes.Test(node.expr, "in", [node.ops[0].expr], [], None, None)
            test.set_lineno(node.lineno)
            return test if node.ops[0].op == "in" else nodes.Not(test, lineno=node.lineno)
        if any(operand.op in ("in", "notin") for operand in node.ops):
            raise TemplateAssertionError("a chain of comparisons with `in`", node.lineno)
        node.expr = _filter(node.expr, WEIGH)
        for operand in node.ops:
            operand.expr = _filter(operand.expr, WEIGH)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filter(node.node, SLICE)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _filter(node.key, WEIGH)
        return node


def _filter(node: nodes.Expr, name: str) -> nodes.Expr:
    if isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _tick(steps: int) -> nodes.Expr:
    return nodes.Filter(nodes.Const(steps), TICK, [], [], None, None, lineno=1)


def _tick_statement(steps: int) -> nodes.Stmt:
    return nodes.ExprStmt(_tick(steps), lineno=1)


def _steps(body: list[nodes.Node]) -> int:
    """Return the steps of one run of a body: its nodes and the text that stands in it."""
    steps, left = NODE, list(body)
    while left:
        node = left.pop()
        steps += NODE
        if isinstance(node, nodes.TemplateData):
            steps += len(node.data)
        apart = _BODIES.get(type(node), ())
        left += node.iter_child_nodes(exclude=apart)
    return steps
