# SPDX-License-Identifier: Apache-2.0
"""A camera over a map, a vehicle under it, and missions."""
