"""What a program consists of, with all that lies inside of its loops and branches."""

import jax
from jax import lax

EXACT = lax.Precision.HIGHEST
PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr):
    """Every equation, those of inner jaxprs too: jit, scan, while, cond, custom derivatives."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                yield from equations(inner)


def precisions(function, *arguments):
    """The precision of each product and convolution of a function, of both sides."""
    found = equations(jax.make_jaxpr(function)(*arguments))
    said = [equation.params["precision"] for equation in found if equation.primitive.name in PRODUCTS]
    return [one if isinstance(one, tuple) else (one, one) for one in said]
