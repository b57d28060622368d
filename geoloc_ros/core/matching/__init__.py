# SPDX-License-Identifier: Apache-2.0
"""One frame against one map crop: match, gates, track, and the settings of all three."""
