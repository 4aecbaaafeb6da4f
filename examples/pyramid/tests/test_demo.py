"""The views, asked through WSGI without a server."""

import unittest

from webob import Request

from e2e_k8s.demo import make_app


class Demo(unittest.TestCase):
    def setUp(self):
        self.app = make_app()

    def get(self, path):
        return Request.blank(path).get_response(self.app)

    def test_add_answers_the_sum(self):
        for path, answer in [("/add/2/3", "5\n"), ("/add/-2/3", "1\n"), ("/add/0/0", "0\n")]:
            with self.subTest(path):
                response = self.get(path)
                self.assertEqual((response.status_code, response.text), (200, answer))
                self.assertEqual(response.content_type, "text/plain")

    def test_what_is_no_number_is_not_found(self):
        for path in ["/add/two/3", "/add/2", "/add/2/3/4", "/add/2/1.5"]:
            with self.subTest(path):
                self.assertEqual(self.get(path).status_code, 404)

    def test_the_page_is_sent(self):
        response = self.get("/")
        self.assertEqual((response.status_code, response.content_type), (200, "text/html"))
        self.assertIn("/add/2/3", response.text)


if __name__ == "__main__":
    unittest.main()
