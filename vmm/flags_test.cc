#include "vmm/flags.h"

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"

ABSL_FLAG(int, apples, 3, "how many apples there are");
ABSL_FLAG(int, ripe_pears, 0, "how many pears are ripe");
ABSL_FLAG(std::string, basket, "", "where they are");

namespace quire {
namespace {

const std::vector<FlagGroup> kGroups = {
    {"Fruit",
     {{"apples", "N", "write a whole number such as 3"}, {"ripe_pears", "N", "write a whole number such as 3"}}},
    {"Containers", {{"basket", "WHERE", "write a place", "here"}}},
};

class FlagsTest : public testing::Test {
 protected:
  static absl::Status Parse(const std::vector<absl::string_view>& args) {
    return ParseFlags("quire pick", args, kGroups);
  }
  static std::string Message(const std::vector<absl::string_view>& args) {
    const absl::Status status = Parse(args);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  absl::FlagSaver saver_;
};

TEST_F(FlagsTest, TakesEverySpelling) {
  for (const std::vector<absl::string_view>& args : std::vector<std::vector<absl::string_view>>{
           {"--apples=5"}, {"-apples=5"}, {"--apples", "5"}, {"-apples", "5"}, {"--apples=4", "--apples=5"}}) {
    absl::SetFlag(&FLAGS_apples, 0);
    EXPECT_TRUE(Parse(args).ok());
    EXPECT_EQ(absl::GetFlag(FLAGS_apples), 5);
  }
}

TEST_F(FlagsTest, TakesDashesBetweenWords) {
  EXPECT_TRUE(Parse({"--ripe-pears=2"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_ripe_pears), 2);
  EXPECT_TRUE(Parse({"--ripe_pears=3"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_ripe_pears), 3);
}

TEST_F(FlagsTest, TakesValuesThatLookLikeFlags) {
  EXPECT_TRUE(Parse({"--apples", "-5", "--basket=-"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_apples), -5);
  EXPECT_EQ(absl::GetFlag(FLAGS_basket), "-");
}

TEST_F(FlagsTest, AFlagMayMeanSomethingWithoutAValue) {
  EXPECT_TRUE(Parse({"--basket", "--apples=1"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_basket), "here");
  EXPECT_EQ(absl::GetFlag(FLAGS_apples), 1);
}

TEST_F(FlagsTest, SuggestsTheNearestFlag) {
  EXPECT_EQ(Message({"--aples=1"}), "--aples is not a flag of quire pick: did you mean --apples?");
  EXPECT_EQ(Message({"--color"}), "--color is not a flag of quire pick: `quire pick --help` lists them");
}

TEST_F(FlagsTest, KnowsOnlyTheFlagsOfItsCommand) {
  EXPECT_NE(absl::FindCommandLineFlag("basket"), nullptr);
  const absl::Status status = ParseFlags("quire eat", {"--basket=x"}, {kGroups[0]});
  EXPECT_EQ(status.message(), "--basket is not a flag of quire eat: `quire eat --help` lists them");
}

TEST_F(FlagsTest, SaysWhatAValueShouldBe) {
  EXPECT_EQ(Message({"--apples=many"}), "--apples=many is not understood: write a whole number such as 3");
  EXPECT_EQ(Message({"--apples="}), "--apples has no value: write a whole number such as 3");
  EXPECT_EQ(Message({"--apples"}), "--apples has no value: write a whole number such as 3");
}

TEST_F(FlagsTest, RefusesArguments) {
  for (absl::string_view arg : {"zipf", "-", "--", ""}) {
    EXPECT_TRUE(absl::StrContains(Message({arg}), "is not a flag: `quire pick --help` lists")) << arg;
  }
}

TEST_F(FlagsTest, ABadArgumentDoesNotEndTheProcess) { EXPECT_FALSE(Parse({"--nonsense"}).ok()); }

TEST(WantsHelpTest, SeesHelpBeforeTheEndOfFlags) {
  EXPECT_TRUE(WantsHelp({"--apples=1", "--help"}));
  EXPECT_TRUE(WantsHelp({"-h"}));
  EXPECT_TRUE(WantsHelp({"-help"}));
  EXPECT_TRUE(WantsHelp({"--help=1"}));
  EXPECT_FALSE(WantsHelp({"--helpful=1"}));
  EXPECT_FALSE(WantsHelp({"--apples=1"}));
  EXPECT_FALSE(WantsHelp({"--", "--help"}));
}

TEST(FlagsHelpTest, ListsGroupsFlagsAndDefaults) {
  EXPECT_EQ(FlagsHelp(kGroups),
            "Fruit\n"
            "  --apples=N              how many apples there are (default 3)\n"
            "  --ripe_pears=N          how many pears are ripe (default 0)\n"
            "\n"
            "Containers\n"
            "  --basket[=WHERE]        where they are\n"
            "\n");
}

}  // namespace
}  // namespace quire
