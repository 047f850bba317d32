#include "workloads/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "workloads/random.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string ErrorOf(absl::string_view text) {
  const absl::StatusOr<WorkloadSpec> spec = ParseWorkload(text);
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(spec.status().message());
}

TEST(ParseWorkload, NameAloneGivesDefaults) {
  const absl::StatusOr<WorkloadSpec> zipf = ParseWorkload("zipf");
  ASSERT_TRUE(zipf.ok()) << zipf.status();
  EXPECT_EQ(zipf->kind, WorkloadKind::kZipf);
  EXPECT_EQ(zipf->theta, 0.99);
  EXPECT_EQ(zipf->scatter, 0u);
  EXPECT_EQ(zipf->touched, 1);
  EXPECT_EQ(zipf->writes, 0.2);
  EXPECT_EQ(zipf->operations, 0u);
}

TEST(ParseWorkload, DefaultsDifferBetweenWorkloads) {
  EXPECT_EQ(ParseWorkload("touch")->writes, 1);
  EXPECT_EQ(ParseWorkload("scan")->writes, 0.2);
}

TEST(ParseWorkload, KeysAreSet) {
  const absl::StatusOr<WorkloadSpec> spec =
      ParseWorkload("phases:set=0.5,period=70,touched=0.25,writes=0,operations=1e6");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->kind, WorkloadKind::kPhases);
  EXPECT_EQ(spec->set, 0.5);
  EXPECT_EQ(spec->period, 70u);
  EXPECT_EQ(spec->touched, 0.25);
  EXPECT_EQ(spec->writes, 0);
  EXPECT_EQ(spec->operations, 1000000u);
}

TEST(ParseWorkload, EveryWorkloadWantsWholeBlocksForAllOfItsMemoryUnlessToldOtherwise) {
  for (const WorkloadInfo& workload : Workloads()) {
    EXPECT_EQ(ParseWorkload(workload.name)->advise, 1);
    EXPECT_EQ(ParseWorkload(absl::StrCat(workload.name, ":advise=0.25"))->advise, 0.25);
  }
  EXPECT_THAT(ErrorOf("scan:advise=1.5"), HasSubstr("from 0 to 1"));
}

TEST(ParseWorkload, NoWorkloadWiresAnythingUnlessToldTo) {
  for (const WorkloadInfo& workload : Workloads()) {
    EXPECT_EQ(ParseWorkload(workload.name)->wired, 0);
    EXPECT_EQ(ParseWorkload(absl::StrCat(workload.name, ":wired=0.25"))->wired, 0.25);
  }
  EXPECT_THAT(ErrorOf("scan:wired=1.5"), HasSubstr("from 0 to 1"));
}

TEST(ParseWorkload, UnknownNameListsTheKnownOnes) {
  EXPECT_THAT(ErrorOf("zipff"), AllOf(HasSubstr("'zipff'"), HasSubstr("touch, random, zipf, phases, scan")));
  EXPECT_THAT(ErrorOf(""), HasSubstr("touch, random"));
  EXPECT_THAT(ErrorOf(":theta=1"), HasSubstr("touch, random"));
}

TEST(ParseWorkload, UnknownKeyListsThatWorkloadsKeys) {
  EXPECT_THAT(ErrorOf("random:theta=1"),
              AllOf(HasSubstr("random has no key 'theta'"),
                    HasSubstr("touched, advise, wired, common, written, writes, operations")));
}

TEST(ParseWorkload, ValueOutOfRangeSaysTheRange) {
  EXPECT_THAT(ErrorOf("zipf:touched=1.5"), AllOf(HasSubstr("touched='1.5'"), HasSubstr("from 0.001 to 1")));
  EXPECT_THAT(ErrorOf("zipf:theta=-1"), HasSubstr("from 0 to 4"));
  EXPECT_THAT(ErrorOf("zipf:theta=nan"), HasSubstr("a number from 0 to 4"));
  EXPECT_THAT(ErrorOf("zipf:theta=inf"), HasSubstr("from 0 to 4"));
  EXPECT_THAT(ErrorOf("zipf:theta="), HasSubstr("a number from 0 to 4"));
  EXPECT_THAT(ErrorOf("zipf:scatter=0.5"), HasSubstr("a whole number from 0 to 1"));
  EXPECT_THAT(ErrorOf("scan:operations=1e16"), HasSubstr("a whole number from 0 to 1000000000000000"));
}

TEST(ParseWorkload, MalformedItems) {
  EXPECT_THAT(ErrorOf("zipf:"), HasSubstr("key=value"));
  EXPECT_THAT(ErrorOf("zipf:theta"), AllOf(HasSubstr("'theta'"), HasSubstr("key=value")));
  EXPECT_THAT(ErrorOf("zipf:theta=1,"), HasSubstr("key=value"));
  EXPECT_THAT(ErrorOf("zipf:theta=1,theta=1"), HasSubstr("given twice"));
}

TEST(ParseWorkload, ErrorsShowInputShortAndPrintable) {
  const std::string error = ErrorOf(absl::StrCat("\x1b[2J\n", std::string(100000, 'x')));
  EXPECT_LT(error.size(), 250u);
  EXPECT_THAT(error, AllOf(Not(HasSubstr("\x1b")), Not(HasSubstr("\n"))));
}

TEST(ParseWorkload, EveryDefaultIsInItsRange) {
  for (const WorkloadInfo& workload : Workloads()) {
    for (const WorkloadKey& key : workload.keys) {
      EXPECT_LE(key.lowest, key.fallback) << workload.name << " " << key.name;
      EXPECT_GE(key.highest, key.fallback) << workload.name << " " << key.name;
      EXPECT_THAT(WorkloadHelp(), HasSubstr(absl::StrCat(key.name, "=")));
    }
  }
}

TEST(ParseWorkload, EveryBoundIsAcceptedAndNothingBeyondIt) {
  for (const WorkloadInfo& workload : Workloads()) {
    for (const WorkloadKey& key : workload.keys) {
      const std::string prefix = absl::StrCat(workload.name, ":", key.name, "=");
      EXPECT_TRUE(ParseWorkload(absl::StrCat(prefix, key.lowest)).ok()) << prefix << key.lowest;
      EXPECT_TRUE(ParseWorkload(absl::StrCat(prefix, key.highest)).ok()) << prefix << key.highest;
      EXPECT_FALSE(ParseWorkload(absl::StrCat(prefix, key.highest * 1.01 + 1)).ok()) << prefix;
      EXPECT_FALSE(ParseWorkload(absl::StrCat(prefix, key.lowest - 1)).ok()) << prefix;
    }
  }
}

// Random strings of what the grammar is made of, now and then with any byte in between.
std::string RandomText(Random& random) {
  static constexpr absl::string_view kParts[] = {"zipf", "touch", "phases", ":", "=",   ",",   "theta",  "writes",
                                                 "0.5",  "1e999", "-0",     "7", "set", "nan", "period", "operations"};
  std::string text;
  for (uint64_t i = random.Below(12); i > 0; --i) {
    if (random.Below(8) == 0) {
      text.push_back(static_cast<char>(random.Next()));
    } else {
      absl::StrAppend(&text, kParts[random.Below(std::size(kParts))]);
    }
  }
  return text;
}

TEST(ParseWorkload, AnyBytesGiveASpecInRangeOrOneSentence) {
  Random random(1);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = RandomText(random);
    if (random.Below(2) == 0) text = absl::StrCat("zipf:theta=0.5,", text);
    const absl::StatusOr<WorkloadSpec> spec = ParseWorkload(text);
    if (!spec.ok()) {
      EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(spec.status().message()), Not(HasSubstr("\n")));
      continue;
    }
    ++accepted;
    EXPECT_TRUE(spec->touched > 0 && spec->touched <= 1 && spec->writes >= 0 && spec->writes <= 1) << text;
    EXPECT_TRUE(spec->period >= 1 && spec->scatter <= 1 && spec->theta >= 0) << text;
    // Formatting and parsing again gives the same spec.
    EXPECT_EQ(FormatWorkload(*ParseWorkload(FormatWorkload(*spec))), FormatWorkload(*spec));
  }
  EXPECT_GT(accepted, 20);
}

TEST(FormatWorkload, ParsesBackToTheSameSpec) {
  const WorkloadSpec spec = *ParseWorkload("zipf:theta=1.1,writes=0.30000000000000004,operations=123456789");
  EXPECT_EQ(FormatWorkload(spec),
            "zipf:touched=1,advise=1,wired=0,common=0,written=1,writes=0.30000000000000004,theta=1.1,scatter=0,"
            "operations=123456789");
  const WorkloadSpec read = *ParseWorkload(FormatWorkload(spec));
  EXPECT_EQ(read.writes, spec.writes);
  EXPECT_EQ(read.theta, spec.theta);
}

}  // namespace
}  // namespace quire
