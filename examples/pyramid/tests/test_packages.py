"""What counts as installed."""

import unittest

from e2e_k8s import packages


class Installed(unittest.TestCase):
    def test_a_pinned_version_that_is_there(self):
        import importlib.metadata

        version = importlib.metadata.version("pyramid")
        self.assertTrue(packages.installed(f"# a remark\n\npyramid=={version}  # another\n"))

    def test_another_version_or_an_open_range_is_not(self):
        for text in ["pyramid==0.0.1", "pyramid>=2", "no-such-package-e2ek==1.0"]:
            with self.subTest(text):
                self.assertFalse(packages.installed(text))


if __name__ == "__main__":
    unittest.main()
