#include "vmm/control/request.h"

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/control/http.h"
#include "vmm/options.h"

namespace quire {

void PrintTo(const HttpRequest& r, std::ostream* out) { *out << r.method << " " << r.target << " " << r.body; }

namespace {

using ::testing::HasSubstr;
using Command = ControlRequest::Command;

struct Good {
  HttpRequest http;
  ControlRequest request;
};

class GoodRequestTest : public ::testing::TestWithParam<Good> {};

TEST_P(GoodRequestTest, IsReadAndWrittenBack) {
  const absl::StatusOr<ControlRequest> request = ParseRequest(GetParam().http);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(*request == GetParam().request);
  EXPECT_EQ(ParseRequest(FormatRequest(*request)).value(), *request);
}

INSTANTIATE_TEST_SUITE_P(
    ControlRequest, GoodRequestTest,
    ::testing::Values(
        Good{{"GET", "/v1/report"}, {.command = Command::kReport}},
        Good{{"HEAD", "/v1/report?"}, {.command = Command::kReport}},
        Good{{"GET", "/metrics"}, {.command = Command::kMetrics}},
        Good{{"GET", "/v1/guests"}, {.command = Command::kGuests}},
        Good{{"GET", "/v1/guests/0"}, {.command = Command::kGuest, .guest = "0"}},
        Good{{"GET", "/v1/guests/guest%2D1?statistics=fresh"},
             {.command = Command::kGuest, .guest = "guest-1", .fresh_statistics = true}},
        Good{{"GET", "/v1/guests/guest%2D1/domain-xml"}, {.command = Command::kGuestXml, .guest = "guest-1"}},
        Good{{"PATCH", "/v1/guests/guest-1", R"({"balloon_bytes": 4096})"},
             {.command = Command::kChangeGuest, .guest = "guest-1", .balloon_bytes = 4096}},
        Good{{"PATCH", "/v1/guests/1", R"({"pool_limit_bytes": 18446744073709551615, "swap_limit_bytes": 0})"},
             {.command = Command::kChangeGuest, .guest = "1", .pool_limit_bytes = ~0ull, .swap_limit_bytes = 0}},
        Good{{"GET", "/v1/explain?guest=guest-0&gfn=4711"}, {.guest = "guest-0", .gfn = 4711}},
        Good{{"GET", "/v1/explain?gfn=0&&guest=0", "a body that nobody asked for"}, {.guest = "0", .gfn = 0}},
        Good{{"GET", "/v1/policies"}, {.command = Command::kPolicies}},
        Good{{"PATCH", "/v1/policies", R"({"merge": "off", "huge": "advise"})"},
             {.command = Command::kChangePolicies, .merge = Merge::kOff, .huge = Huge::kAdvise}},
        Good{{"POST", "/v1/poison", R"({"guest": "guest-0", "gfn": 7})"},
             {.command = Command::kPoison, .guest = "guest-0", .gfn = 7}},
        Good{{"POST", "/v1/poison", R"({"guest": 1, "gfn": 7})"},
             {.command = Command::kPoison, .guest = "1", .gfn = 7}},
        Good{{"POST", "/v1/poison", R"({"frame": 1303})"}, {.command = Command::kPoison, .frame = 1303}}));

struct Wrong {
  HttpRequest http;
  absl::StatusCode code;
  std::string says;
};

class WrongRequestTest : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongRequestTest, IsRefusedWithASentence) {
  const absl::Status status = ParseRequest(GetParam().http).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

constexpr absl::StatusCode kBad = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kNone = absl::StatusCode::kNotFound;
constexpr absl::StatusCode kNotSo = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    ControlRequest, WrongRequestTest,
    ::testing::Values(
        Wrong{{"GET", "/"}, kNone, "/v1/policies, /v1/poison and /v1/report are"},
        Wrong{{"GET", ""}, kNone, "there is no \"\""}, Wrong{{"GET", "/v1/report/"}, kNone, "there is no"},
        Wrong{{"GET", "/v1/guests/"}, kNone, "there is no"}, Wrong{{"GET", "/v1/guests/0/1"}, kNone, "there is no"},
        Wrong{{"GET", std::string("/\0\xff", 3)}, kNone, "there is no \"/\\x00\\xff\""},
        Wrong{{"POST", "/v1/report"}, kNotSo, "has no \"POST\": GET, HEAD will do"},
        Wrong{{"DELETE", "/v1/guests/0"}, kNotSo, "GET, HEAD, PATCH will do"},
        Wrong{{"get", "/v1/report"}, kNotSo, "has no \"get\""},
        Wrong{{"GET", "/v1/guests/a%20b"}, kBad, "\"a b\" is no guest"},
        Wrong{{"GET", "/v1/guests/%2"}, kBad, "has a % without two"},
        Wrong{{"GET", "/v1/guests/" + std::string(65, 'x')}, kBad, "is no guest"},
        Wrong{{"GET", "/v1/guests/0?statistics=old"}, kBad, "write statistics=fresh"},
        Wrong{{"GET", "/v1/guests/0?gfn=1"}, kBad, "\"gfn\" is not a key of this query: statistics is"},
        Wrong{{"GET", "/v1/report?x=1"}, kBad, "is not a key of this query, which has none"},
        Wrong{{"GET", "/v1/explain"}, kBad, "/v1/explain?guest=0&gfn=4711"},
        Wrong{{"GET", "/v1/explain?guest=0"}, kBad, "explain needs a guest and a page"},
        Wrong{{"GET", "/v1/explain?guest=0&gfn=-1"}, kBad, "gfn=\"-1\" is not a number"},
        Wrong{{"GET", "/v1/explain?guest=0&gfn=1&gfn=2"}, kBad, "\"gfn\" is given twice"},
        Wrong{{"GET", "/v1/explain?guest=0&gfn=1&%"}, kBad, "has a % without"},
        Wrong{{"GET", "/v1/explain?guest=0&gfn=1&frame=1"}, kBad, "guest and gfn are"},
        Wrong{{"PATCH", "/v1/guests/0"}, kBad, "the body is no JSON object"},
        Wrong{{"PATCH", "/v1/guests/0", "[]"}, kBad, "the body is no JSON object"},
        Wrong{{"PATCH", "/v1/guests/0", "{"}, kBad, "the body is no JSON object"},
        Wrong{{"PATCH", "/v1/guests/0", std::string(kLongestBody, '[')}, kBad, "the body is no JSON object"},
        Wrong{{"PATCH", "/v1/guests/0", std::string(kLongestBody + 1, ' ')}, kBad, "the body has more than 16384"},
        Wrong{{"PATCH", "/v1/guests/0", "{}"}, kBad, "nothing is to change: write balloon_bytes"},
        Wrong{{"PATCH", "/v1/guests/0", R"({"memory_bytes": 1})"}, kBad, "\"memory_bytes\" is nothing to change"},
        Wrong{{"PATCH", "/v1/guests/0", R"({"balloon_bytes": "1"})"}, kBad, "\"balloon_bytes\" is not a number"},
        Wrong{{"PATCH", "/v1/guests/0", R"({"balloon_bytes": -1})"}, kBad, "is not a number from 0 on"},
        Wrong{{"PATCH", "/v1/guests/0", R"({"balloon_bytes": 1.5})"}, kBad, "write a whole one"},
        Wrong{{"PATCH", "/v1/guests/0", R"({"swap_limit_bytes": 18446744073709551616})"}, kBad, "is not a number"},
        Wrong{{"PATCH", "/v1/policies", "{}"}, kBad, "write merge or huge"},
        Wrong{{"PATCH", "/v1/policies", R"({"merge": true})"}, kBad, R"(write "on" or "off")"},
        Wrong{{"PATCH", "/v1/policies", R"({"huge": "sometimes"})"}, kBad, R"(write "always" or "advise" or "never")"},
        Wrong{{"PATCH", "/v1/policies", R"({"pool": 1})"}, kBad, "merge and huge are"},
        Wrong{{"POST", "/v1/poison", "{}"}, kBad, "poison needs a page or a frame"},
        Wrong{{"POST", "/v1/poison", R"({"guest": 0})"}, kBad, "poison needs a page or a frame"},
        Wrong{{"POST", "/v1/poison", R"({"guest": 0, "gfn": 1, "frame": 2})"}, kBad, "a page or a frame"},
        Wrong{{"POST", "/v1/poison", R"({"guest": [], "gfn": 1})"}, kBad, "\"guest\" is no guest"},
        Wrong{{"POST", "/v1/poison", R"({"guest": "\u0000", "gfn": 1})"}, kBad, "\"\\x00\" is no guest"},
        Wrong{{"POST", "/v1/poison", R"({"bytes": 1})"}, kBad, "guest, gfn and frame are"}));

TEST(AllowedMethodsTest, AreThoseOfThePath) {
  EXPECT_EQ(AllowedMethods("/v1/guests/0?x"), "GET, HEAD, PATCH");
  EXPECT_EQ(AllowedMethods("/v1/poison"), "POST");
  EXPECT_EQ(AllowedMethods("/v1"), "");
}

}  // namespace
}  // namespace quire
