# SPDX-License-Identifier: Apache-2.0
"""Networks that find a drone's view on a satellite map; PyTorch only, no ROS."""

import os

# Before torch loads its OpenMP: threads that wait must sleep, not spin. Where anything else wants the cores (a camera
# driver, DDS), spinning threads keep the very thread they wait for from running: seen with a real-time process on one
# of two cores, 7.3 s a frame against 0.28; on a quiet machine sleeping costs nothing that could be measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
