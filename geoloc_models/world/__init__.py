# SPDX-License-Identifier: Apache-2.0
"""A generated world: orthophotos of two dates, for demonstrations and tests."""
