#include "vmm/control/request.h"

#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

std::string WhyNot(absl::string_view line) {
  const absl::StatusOr<ControlRequest> request = ParseRequest(line);
  EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << line;
  return std::string(request.status().message());
}

TEST(ControlRequestTest, ARequestIsReadBackAsItWasWritten) {
  const ControlRequest request{.guest = "guest-0", .gfn = 4711};
  EXPECT_EQ(FormatRequest(request), "explain guest=guest-0 gfn=4711");
  EXPECT_EQ(*ParseRequest(FormatRequest(request)), request);
}

TEST(ControlRequestTest, AFrameStandsForAPage) {
  const ControlRequest frame{.command = ControlRequest::Command::kPoison, .frame = 1303};
  EXPECT_EQ(FormatRequest(frame), "poison frame=1303");
  EXPECT_EQ(*ParseRequest(FormatRequest(frame)), frame);
  const ControlRequest page{.command = ControlRequest::Command::kPoison, .guest = "0", .gfn = 7};
  EXPECT_EQ(*ParseRequest(FormatRequest(page)), page);
  for (const char* line : {"poison", "poison guest=0", "poison gfn=7", "poison guest=0 gfn=7 frame=1"}) {
    EXPECT_THAT(WhyNot(line), HasSubstr("poison needs a page or a frame")) << line;
  }
  EXPECT_THAT(WhyNot("explain frame=1"), HasSubstr("explain needs a guest and a page"));
}

TEST(ControlRequestTest, ABalloonIsOfAGuestAndMayBeAskedAboutOnly) {
  const ControlRequest set{.command = ControlRequest::Command::kBalloon, .guest = "0", .bytes = 4096};
  EXPECT_EQ(FormatRequest(set), "balloon guest=0 bytes=4096");
  EXPECT_EQ(*ParseRequest(FormatRequest(set)), set);
  const ControlRequest ask{.command = ControlRequest::Command::kBalloon, .guest = "guest-1"};
  EXPECT_EQ(*ParseRequest(FormatRequest(ask)), ask);
  for (const char* line : {"balloon", "balloon bytes=1", "balloon guest=0 gfn=1", "balloon guest=0 frame=1"}) {
    EXPECT_THAT(WhyNot(line), HasSubstr("balloon needs a guest")) << line;
  }
  EXPECT_THAT(WhyNot("explain guest=0 gfn=1 bytes=1"), HasSubstr("bytes are for balloon"));
}

TEST(ControlRequestTest, WordsMayComeInAnyOrderAndApart) {
  const ControlRequest request{.guest = "3", .gfn = UINT64_MAX};
  EXPECT_EQ(*ParseRequest("  explain   gfn=18446744073709551615 guest=3 "), request);
}

TEST(ControlRequestTest, WhatIsWrongIsSaid) {
  EXPECT_THAT(WhyNot(""), HasSubstr("\"\" is not a request"));
  EXPECT_THAT(WhyNot("stop guest=1 gfn=1"), HasSubstr("\"stop\" is not a request"));
  EXPECT_THAT(WhyNot("explain"), HasSubstr("needs a guest and a page"));
  EXPECT_THAT(WhyNot("explain guest=1"), HasSubstr("needs a guest and a page"));
  EXPECT_THAT(WhyNot("explain guest=1 gfn=x"), HasSubstr("\"x\" is not a number"));
  EXPECT_THAT(WhyNot("explain guest=1 gfn=-1"), HasSubstr("is not a number"));
  EXPECT_THAT(WhyNot("explain guest=1 gfn=18446744073709551616"), HasSubstr("is not a number"));
  EXPECT_THAT(WhyNot("explain guest= gfn=1"), HasSubstr("is no guest"));
  EXPECT_THAT(WhyNot("explain guest=a/b gfn=1"), HasSubstr("\"a/b\" is no guest"));
  EXPECT_THAT(WhyNot("explain guest=1 gfn=1 page=1"), HasSubstr("\"page\" is not a key"));
  EXPECT_THAT(WhyNot("explain guest=1 guest=2"), HasSubstr("given twice"));
}

TEST(ControlRequestTest, BytesThatAreNoTextAreShownEscapedAndCut) {
  EXPECT_THAT(WhyNot(std::string("\0\xff\n", 3)), HasSubstr(R"("\x00\xff\n" is not a request)"));
  EXPECT_LT(WhyNot(std::string(1000, 'x')).size(), 200u);
  EXPECT_THAT(WhyNot(std::string(2000, 'x')), HasSubstr("at most 1024 bytes"));
}

TEST(ControlRequestTest, WhateverIsTakenIsReadBack) {
  std::mt19937 random(1);
  constexpr absl::string_view kLetters = "explain gust=fn0129-_.\n\0\xff";
  for (int i = 0; i < 20'000; ++i) {
    std::string line = "explain guest=guest-0 gfn=4711";
    for (int n = 0; n < 3; ++n) line[random() % line.size()] = kLetters[random() % kLetters.size()];
    const absl::StatusOr<ControlRequest> request = ParseRequest(line);
    EXPECT_TRUE(!request.ok() || *ParseRequest(FormatRequest(*request)) == *request) << line;
  }
}

}  // namespace
}  // namespace quire
