# SPDX-License-Identifier: Apache-2.0
"""The vehicle's motion between images, from the images alone."""
