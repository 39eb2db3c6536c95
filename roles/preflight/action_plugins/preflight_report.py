"""The control machine's half of the module of the same name: it measures how far the host's clock is off."""

import time

from ansible.plugins.action import ActionBase

_TRIES = 3


class ActionModule(ActionBase):
    """What Ansible looks for in this file."""

    def run(self, tmp=None, task_vars=None):
        """The module's report, and `clock`: seconds ahead of this machine's, give or take `uncertainty`."""
        super().run(tmp, task_vars)
        report = self._execute_module(task_vars=task_vars)
        if not report.get("failed"):
            report["clock"] = min((self._clock() for _ in range(_TRIES)), key=lambda clock: clock["uncertainty"])
        return report

    def _clock(self):
        # As NTP does (RFC 5905 section 8): the answer was given at some time between question and arrival.
        asked = time.time()
        said = self._low_level_execute_command("date +%s.%N", sudoable=False)
        arrived = time.time()
        return {
            "offset": round(float(said["stdout"].strip()) - (asked + arrived) / 2, 3),
            "uncertainty": round((arrived - asked) / 2, 3),
        }
