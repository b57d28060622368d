# SPDX-License-Identifier: Apache-2.0
"""How good networks are: views in maps, retrieval, stress, calibration."""
