#include "vmm/libvirt/manage/policy.h"

#include <fstream>
#include <ostream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

Policy Parse(const std::string& text) {
  const absl::StatusOr<Policy> policy = ParsePolicy("p.toml", text);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return policy.value_or(Policy());
}

TEST(Policy, IsTheDefaultOneWhereNothingIsSaid) {
  const Policy policy = Parse("");
  EXPECT_EQ(policy.interval, absl::Seconds(5));
  EXPECT_TRUE(policy.balloon.enabled);
  EXPECT_FALSE(policy.ksm.enabled);
  EXPECT_FALSE(policy.memtune.soft_limits);
  EXPECT_EQ(policy.For("any").shares, 1000);
}

TEST(Policy, ReadsEachKey) {
  const Policy policy = Parse(R"(
interval = 2.5
[host]
reserve = "2G"
pressure = 25
[balloon]
enabled = false
tax = 0.5
headroom = "20%"
step = "5%"
deadband = "2%"
[ksm]
enabled = true
below = "30%"
least_pages = 10
most_pages = 20
boost = 3
decay = 2
sleep_millisecs = 50
[memtune]
soft_limits = true
overhead = "512M"
[defaults]
shares = 500
min = "1G"
[[domains]]
name = "web-*"
shares = 2000
max = 4294967296
[[domains]]
name = "db"
manage = false
)");
  EXPECT_EQ(policy.interval, absl::Milliseconds(2500));
  EXPECT_EQ(policy.host.reserve.Of(ByteCount::GiB(64)), ByteCount::GiB(2));
  EXPECT_EQ(policy.host.pressure, 25);
  EXPECT_FALSE(policy.balloon.enabled);
  EXPECT_EQ(policy.balloon.tax, 0.5);
  EXPECT_DOUBLE_EQ(policy.balloon.headroom, 0.2);
  EXPECT_DOUBLE_EQ(policy.balloon.step, 0.05);
  EXPECT_DOUBLE_EQ(policy.balloon.deadband, 0.02);
  EXPECT_TRUE(policy.ksm.enabled);
  EXPECT_EQ(policy.ksm.below.Of(ByteCount::GiB(10)), ByteCount::GiB(3));
  EXPECT_EQ(policy.ksm.least_pages, 10);
  EXPECT_EQ(policy.ksm.most_pages, 20);
  EXPECT_EQ(policy.ksm.boost, 3);
  EXPECT_EQ(policy.ksm.decay, 2);
  EXPECT_EQ(policy.ksm.sleep_millisecs, 50);
  EXPECT_TRUE(policy.memtune.soft_limits);
  EXPECT_EQ(policy.memtune.overhead, ByteCount::MiB(512));
  EXPECT_EQ(policy.For("other").shares, 500);
  EXPECT_EQ(policy.For("web-7").shares, 2000);
  EXPECT_EQ(policy.For("web-7").min.Of(ByteCount::GiB(8)), ByteCount::GiB(1)) << "of [defaults]";
  EXPECT_EQ(policy.For("web-7").max.Of(ByteCount::GiB(8)), ByteCount::GiB(4));
  EXPECT_FALSE(policy.For("db").manage);
}

TEST(Policy, TakesTheFirstTableThatMatches) {
  const Policy policy = Parse("[[domains]]\nname = \"web-1\"\nshares = 1\n[[domains]]\nname = \"web-?\"\nshares = 2\n");
  EXPECT_EQ(policy.For("web-1").shares, 1);
  EXPECT_EQ(policy.For("web-2").shares, 2);
  EXPECT_EQ(policy.For("web-10").shares, 1000);
}

TEST(Policy, TakesANameForItselfThatIsAPattern) {
  EXPECT_EQ(Parse("[[domains]]\nname = \"a[1]\"\nshares = 7\n").For("a[1]").shares, 7);
}

// What is shipped is what counts without a file, with every key written out.
TEST(Policy, IsShippedAsTheDefaultOne) {
  std::ostringstream text;
  text << std::ifstream("policies/default.toml").rdbuf();
  const Policy shipped = Parse(text.str()), plain;
  EXPECT_THAT(text.str(), HasSubstr("sleep_millisecs"));
  EXPECT_EQ(shipped.interval, plain.interval);
  EXPECT_EQ(shipped.host.reserve.part, plain.host.reserve.part);
  EXPECT_EQ(shipped.host.pressure, plain.host.pressure);
  EXPECT_EQ(shipped.balloon.enabled, plain.balloon.enabled);
  EXPECT_EQ(shipped.balloon.tax, plain.balloon.tax);
  EXPECT_DOUBLE_EQ(shipped.balloon.headroom, plain.balloon.headroom);
  EXPECT_DOUBLE_EQ(shipped.balloon.step, plain.balloon.step);
  EXPECT_DOUBLE_EQ(shipped.balloon.deadband, plain.balloon.deadband);
  EXPECT_EQ(shipped.ksm.enabled, plain.ksm.enabled);
  EXPECT_EQ(shipped.ksm.below.part, plain.ksm.below.part);
  EXPECT_EQ(shipped.ksm.least_pages, plain.ksm.least_pages);
  EXPECT_EQ(shipped.ksm.most_pages, plain.ksm.most_pages);
  EXPECT_EQ(shipped.ksm.boost, plain.ksm.boost);
  EXPECT_EQ(shipped.ksm.decay, plain.ksm.decay);
  EXPECT_EQ(shipped.ksm.sleep_millisecs, plain.ksm.sleep_millisecs);
  EXPECT_EQ(shipped.memtune.soft_limits, plain.memtune.soft_limits);
  EXPECT_EQ(shipped.memtune.overhead, plain.memtune.overhead);
  EXPECT_EQ(shipped.defaults.shares, plain.defaults.shares);
  EXPECT_EQ(shipped.defaults.min.part, plain.defaults.min.part);
  EXPECT_EQ(shipped.defaults.max.part, plain.defaults.max.part);
  EXPECT_TRUE(shipped.domains.empty());
}

struct Wrong {
  std::string text;
  int line;
  std::string says;
};

void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.says; }

class WrongPolicy : public testing::TestWithParam<Wrong> {};

TEST_P(WrongPolicy, IsRefusedWithItsLine) {
  const absl::Status status = ParsePolicy("p.toml", GetParam().text).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith("p.toml:" + std::to_string(GetParam().line) + ": "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongPolicy,
    testing::Values(Wrong{"interval = [", 1, "this is no TOML"},  //
                    Wrong{"\nintervall = 5", 2, "intervall"},     //
                    Wrong{"interval = 0", 1, "a number from 1 to 3600"},
                    Wrong{"interval = nan", 1, "a number from 1 to 3600"}, Wrong{"host = 5", 1, "write [host]"},
                    Wrong{"[host]\nreserve = \"much\"", 2, "a size such as \"2G\", or a part such as \"10%\""},
                    Wrong{"[host]\nreserve = \"101%\"", 2, "a size such as"},
                    Wrong{"[host]\nreserve = \"nan%\"", 2, "a size such as"},
                    Wrong{"[host]\nreserve = -5", 2, "a size such as"},
                    Wrong{"[host]\nreserve = \"95%\"", 2, "at most \"90%\""},
                    Wrong{"[host]\npressure = 0", 2, "a number from 0.1 to 100"},
                    Wrong{"[host]\nreserves = \"1G\"", 2, "reserves"},
                    Wrong{"[balloon]\ntax = 1", 2, "a number from 0 to 0.99"},
                    Wrong{"[balloon]\nstep = \"10\"", 2, "a part from \"0%\" to \"100%\""},
                    Wrong{"[balloon]\nstep = \"0.1%\"", 2, "at least \"1%\""},
                    Wrong{"[balloon]\nstep = \"2%\"\ndeadband = \"3%\"", 3, "less than step"},
                    Wrong{"[balloon]\nenabled = \"yes\"", 2, "true or false"},
                    Wrong{"[ksm]\nleast_pages = 9\nmost_pages = 8", 2, "more than most_pages"},
                    Wrong{"[ksm]\nboost = 0", 2, "a whole number from 1"},
                    Wrong{"[memtune]\noverhead = \"2000T\"", 2, "more than any process needs"},
                    Wrong{"[memtune]\nhard_limits = true", 2, "hard_limits"},
                    Wrong{"[defaults]\nshares = 0", 2, "a number from 1 to"},
                    Wrong{"[defaults]\nmin = \"50%\"\nmax = \"40%\"", 2, "min is more than max"},
                    Wrong{"[defaults]\nmin = \"0%\"\nmax = \"0%\"", 3, "no guest runs in that"},
                    Wrong{"[defaults]\nname = \"a\"", 2, "name"}, Wrong{"[domains]\nname = \"a\"", 1, "[[domains]]"},
                    Wrong{"[[domains]]\nshares = 5", 1, "is to have a name"},
                    Wrong{"[[domains]]\nname = \"a\"\n[[domains]]\nname = \"a\"", 4, "this never counts"},
                    Wrong{"[[domains]]\nname = \"*\"\n[[domains]]\nname = \"a\"", 4, "line 1"},
                    Wrong{"[[domains]]\nname = \"a\"\nmin = \"2G\"\nmax = \"1G\"", 3, "min is more than max"}));

TEST(Policy, SaysWhichFileCannotBeRead) {
  const absl::Status status = ReadPolicy("/nowhere/p.toml").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/p.toml"));
}

}  // namespace
}  // namespace quire
