"""Ansible's linear strategy over Mitogen: one Python on each host runs all modules of a run, instead of one each.

Without Mitogen on the control machine it is the linear strategy itself, and a run takes longer (docs/decisions/0010).
ANSIBLE_STRATEGY=linear does the same on purpose.
"""

from ansible.collections.list import list_collection_dirs
from ansible.plugins.loader import filter_loader, test_loader

try:
    from ansible_mitogen.loaders import strategy_loader
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:
    from ansible.plugins.strategy.linear import StrategyModule as Linear
else:

    class Linear(StrategyMixin, strategy_loader.get("linear", class_only=True)):
        pass


class StrategyModule(Linear):
    """Each task runs in a fork. What every fork would load is loaded before: filters, tests, collections."""

    def run(self, iterator, play_context):
        for plugins in (filter_loader.all(), test_loader.all(), list_collection_dirs()):
            list(plugins)
        return super().run(iterator, play_context)
