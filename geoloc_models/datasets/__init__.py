# SPDX-License-Identifier: Apache-2.0
"""Image pairs, UL14, DenseUAV, University-1652: readers, writers, checks, augmentation."""
