"""Ansible's linear strategy over Mitogen: one Python on each host runs all modules of a run, instead of one each.

Without Mitogen on the control machine it is the linear strategy itself, and a run takes longer (docs/decisions/0010).
ANSIBLE_STRATEGY=linear does the same on purpose.
"""

try:
    from ansible_mitogen.loaders import strategy_loader
    from ansible_mitogen.strategy import StrategyMixin
except ImportError:
    from ansible.plugins.strategy.linear import StrategyModule
else:

    class StrategyModule(StrategyMixin, strategy_loader.get("linear", class_only=True)):
        pass
