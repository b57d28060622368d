# SPDX-License-Identifier: Apache-2.0
"""Build, check or synthesize data sets.

Data sets in the UL14 layout: built from your own map and photos, checked, or generated.
"""

VERBS = ("build", "check", "synthesize")
