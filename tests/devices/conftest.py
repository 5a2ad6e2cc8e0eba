"""Tests on eight virtual devices, collected only by a process that has them.

``tests/test_devices.py`` starts it; by hand::

    XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest -n0 tests/devices
"""

import os

EIGHT = "--xla_force_host_platform_device_count=8"
collect_ignore_glob = [] if EIGHT in os.environ.get("XLA_FLAGS", "") else ["test_*.py"]
