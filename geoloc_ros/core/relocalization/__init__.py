# SPDX-License-Identifier: Apache-2.0
"""Where a vehicle without a track is: gallery, candidates, hypotheses."""
