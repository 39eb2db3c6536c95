"""Ansible's linear strategy over Mitogen: one Python on each host runs all modules of a run, instead of one each.

Without Mitogen on the control machine it is the linear strategy itself, and a run takes longer (docs/decisions/0010).
ANSIBLE_STRATEGY=linear does the same on purpose.
"""

import functools

from ansible.collections.list import list_collection_dirs
from ansible.module_utils.common.json import Direction, get_module_decoder
from ansible.plugins import loader
from ansible.template import Templar, trust_as_template

try:
    from ansible_mitogen.loaders import strategy_loader
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:
    from ansible.plugins.strategy.linear import StrategyModule as Linear
else:

    class Linear(StrategyMixin, strategy_loader.get("linear", class_only=True)):
        pass


class StrategyModule(Linear):
    """Each task runs in a fork for each host. What every fork would load anew is loaded before."""

    def run(self, iterator, play_context):
        _load_what_every_fork_needs()
        # A play can bring filters and tests of its own.
        for plugins in (loader.filter_loader.all(), loader.test_loader.all()):
            list(plugins)
        return super().run(iterator, play_context)


@functools.cache
def _load_what_every_fork_needs():
    """Once for all plays: collections, the folders of plugins, the decoder of results, and the lexer of templates."""
    list(list_collection_dirs())
    for plugins in ("action", "become", "connection", "module", "shell"):
        # To look for a name that no plugin has reads all folders.
        getattr(loader, f"{plugins}_loader").find_plugin("none")
    get_module_decoder("legacy", Direction.MODULE_TO_CONTROLLER)
    Templar().template(trust_as_template("{{ 1 }}"))
