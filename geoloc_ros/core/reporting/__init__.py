# SPDX-License-Identifier: Apache-2.0
"""Reports, plots, comparisons and exports of scored runs."""
