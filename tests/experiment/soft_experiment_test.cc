// Whole experiments with software guests, unprivileged: what comes out, what phases do, and what becomes of one that is
// ended in the middle.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/experiment/quire_experiment.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

// Each run ends by itself when its guests have done their work, however slow the machine.
constexpr char kSix[] = R"(
asks = "Does it work?"
repetitions = 3
seed = 7
[run]
accel = "soft"
pool = "32M"
seconds = 3600
[guests.a]
count = 2
memory = "8M"
workload = "zipf:operations=3000"
[matrix]
merge = ["on", "off"]
)";
const std::multiset<std::string> kSixRuns = {"merge=on repetition=1",  "merge=on repetition=2",
                                             "merge=on repetition=3",  "merge=off repetition=1",
                                             "merge=off repetition=2", "merge=off repetition=3"};

const Json& PhaseOf(const Json& result, const std::string& name) {
  for (const Json& phase : result["report"]["phases"]) {
    if (phase["name"] == name) return phase;
  }
  ADD_FAILURE() << "no phase " << name << " in " << result["report"]["phases"];
  static const Json none;
  return none;
}

double Operations(const Json& result, const std::string& phase) { return PhaseOf(result, phase)["operations"]; }

TEST(SoftExperimentTest, GivesALineForEachRunAndAPage) {
  const QuireExperiment experiment(kSix);
  const ProgramEnd end = experiment.Run();
  ASSERT_EQ(end.code(), 0) << end.said;
  EXPECT_THAT(end.said, HasSubstr("Does it work?\n"));
  EXPECT_THAT(end.said, HasSubstr("2 settings, 3 times each: 6 runs"));
  EXPECT_THAT(end.said, HasSubstr("6 of 6  "));
  EXPECT_EQ(experiment.Runs(), kSixRuns);
  for (const Json& result : experiment.Results()) {
    EXPECT_EQ(result["outcome"], "ok") << result["reason"];
    EXPECT_EQ(result["seed"], result["repetition"].get<int>() + 6);
    EXPECT_EQ(result["values"]["mismatched_pages"], 0);
    EXPECT_GE(result["report"]["guests"][0]["operations"], 3000);
    EXPECT_EQ(result["settings"]["accel"], "soft");
    EXPECT_EQ(result["settings"]["run"]["merge"], result["point"]["merge"]);
    EXPECT_TRUE(result["host"].is_object());
    EXPECT_EQ(result["report"]["guests"].size(), 2u);
  }
  EXPECT_THAT(Contents(experiment.out() + "/report.html"), HasSubstr("Does it work?"));
  EXPECT_EQ(Json::parse(Contents(experiment.out() + "/experiment.json"))["repetitions"], 3);

  // There is nothing left to do, and that changes nothing.
  const std::string before = Contents(experiment.out() + "/results.jsonl");
  const ProgramEnd again = experiment.Run();
  EXPECT_EQ(again.code(), 0) << again.said;
  EXPECT_THAT(again.said, HasSubstr("6 runs of 6 found in "));
  EXPECT_EQ(Contents(experiment.out() + "/results.jsonl"), before);
}

TEST(SoftExperimentTest, TheSameSeedDoesTheSameWork) {
  const QuireExperiment experiment(kSix);
  const std::string other = experiment.directory() + "/other";
  ASSERT_EQ(experiment.Run().code(), 0);
  ASSERT_EQ(experiment.Run({}, other).code(), 0);
  const std::vector<Json> one = experiment.Results(), two = experiment.Results(other);
  ASSERT_EQ(one.size(), two.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i]["run"], two[i]["run"]);
    EXPECT_EQ(one[i]["seed"], two[i]["seed"]);
    for (size_t guest = 0; guest < 2; ++guest) {
      for (const char* key : {"operations", "verified_pages"}) {
        EXPECT_EQ(one[i]["report"]["guests"][guest][key], two[i]["report"]["guests"][guest][key]) << key;
      }
    }
  }
}

TEST(SoftExperimentTest, ThePlanIsNotCarriedOut) {
  const QuireExperiment experiment(kSix);
  const ProgramEnd end = experiment.Run({"--plan"});
  EXPECT_EQ(end.code(), 0);
  EXPECT_THAT(end.said, HasSubstr("\n1  merge=on repetition=1\n2  merge=off repetition=1\n"));
  EXPECT_EQ(Contents(experiment.out() + "/experiment.json"), "");
}

TEST(SoftExperimentTest, ResultsOfAnotherFileAreNotMixedIn) {
  const QuireExperiment experiment(kSix);
  const QuireExperiment other(absl::StrCat("name = \"other\"\n", kSix));
  ASSERT_EQ(experiment.Run().code(), 0);
  const ProgramEnd end = other.Run({}, experiment.out());
  EXPECT_EQ(end.code(), 2);
  EXPECT_THAT(end.said, HasSubstr("it has those of another experiment; name another directory."));
  EXPECT_EQ(experiment.Run({"--quick"}).code(), 2);
  EXPECT_EQ(experiment.Runs(), kSixRuns);
}

TEST(SoftExperimentTest, AGroupThatStartsLaterWorksFromThenOn) {
  const QuireExperiment experiment(R"(
repetitions = 1
[run]
accel = "soft"
pool = "64M"
[guests.idle]
memory = "8M"
load = 0
[guests.late]
memory = "8M"
[[phases]]
name = "before"
seconds = 0.3
[[phases]]
name = "during"
start = "late"
seconds = 1
[[phases]]
name = "after"
stop = "late"
seconds = 0.3
)");
  const ProgramEnd end = experiment.Run();
  ASSERT_EQ(end.code(), 0) << end.said;
  const Json result = experiment.Results().at(0);
  EXPECT_EQ(result["outcome"], "ok") << result["reason"];
  EXPECT_EQ(PhaseOf(result, "before")["guests"], 1);
  EXPECT_EQ(PhaseOf(result, "during")["guests"], 2);
  // One that does not work at all does little: what it had begun.
  EXPECT_GT(Operations(result, "during"), 20 * Operations(result, "before") + 100);
  EXPECT_GT(Operations(result, "during"), 3 * Operations(result, "after"));
}

TEST(SoftExperimentTest, LoadIsTheShareOfItsTimeThatAGuestWorks) {
  const QuireExperiment experiment(R"(
repetitions = 1
[run]
accel = "soft"
pool = "64M"
[guests.a]
memory = "8M"
[[phases]]
name = "all"
seconds = 1.5
[[phases]]
name = "tenth"
seconds = 1.5
load = { a = 10 }
[[phases]]
name = "again"
seconds = 1.5
load = { a = 100 }
)");
  const ProgramEnd end = experiment.Run();
  ASSERT_EQ(end.code(), 0) << end.said;
  const Json result = experiment.Results().at(0);
  // Others may take the processor from either; that is not to be ten times as much.
  EXPECT_GT(Operations(result, "all"), 2 * Operations(result, "tenth"));
  EXPECT_GT(Operations(result, "again"), 2 * Operations(result, "tenth"));
  EXPECT_GT(Operations(result, "tenth"), 0);
}

TEST(SoftExperimentTest, GuestsThatAreStoppedLeaveTheirMemory) {
  const QuireExperiment experiment(R"(
repetitions = 1
[run]
accel = "soft"
merge = "off"
pool = "128M"
[guests.stays]
memory = "8M"
[guests.goes]
memory = "64M"
[[phases]]
name = "both"
seconds = 0.5
[[phases]]
name = "one"
stop = "goes"
seconds = 3
)");
  const ProgramEnd end = experiment.Run();
  ASSERT_EQ(end.code(), 0) << end.said;
  const Json result = experiment.Results().at(0);
  EXPECT_EQ(result["outcome"], "ok") << result["reason"];
  const Json& timeline = result["timeline"];
  const uint64_t last = timeline["resident_bytes"].back();
  EXPECT_GE(result["values"]["peak_memory_bytes"], 64u << 20);
  EXPECT_LT(last, 32u << 20);
  EXPECT_EQ(timeline["guests"].back(), 0);
}

TEST(SoftExperimentTest, GuestsComeOneByOneUntilOneIsTooMuch) {
  const QuireExperiment experiment(R"(
repetitions = 1
[run]
accel = "soft"
merge = "off"
pool = "48M"
compressibility = 1
[guests.a]
count = 20
memory = "8M"
[[phases]]
name = "come"
seconds = 3600
one_by_one = { guests = "a", every = 0.05 }
)");
  const ProgramEnd end = experiment.Run();
  ASSERT_EQ(end.code(), 0) << end.said;
  const Json result = experiment.Results().at(0);
  EXPECT_EQ(result["outcome"], "ok") << result["reason"];
  const int fit = result["values"]["guests_that_fit"], ran = result["values"]["guests_that_ran"];
  // One starts every twentieth of a second, and takes longer to fill its memory where the machine is slow.
  EXPECT_GE(fit, 3);
  EXPECT_LT(fit, 20);
  EXPECT_EQ(fit, ran - 1);
}

TEST(SoftExperimentTest, WhenAllHaveComeThePhaseIsOver) {
  const QuireExperiment experiment(R"(
repetitions = 1
[run]
accel = "soft"
pool = "64M"
[guests.a]
count = 3
memory = "8M"
[[phases]]
name = "come"
seconds = 3600
one_by_one = { guests = "a", every = 0.05 }
)");
  const ProgramEnd end = experiment.Run();
  ASSERT_EQ(end.code(), 0) << end.said;
  EXPECT_EQ(experiment.Results().at(0)["values"]["guests_that_fit"], 3);
}

// -9 in the middle, as soon as so many runs have ended; what is started again goes on.
TEST(SoftExperimentTest, KilledAtAnyPointItGoesOnWhereItWas) {
  const QuireExperiment experiment(kSix);
  for (const size_t after : {0, 1, 3, 5}) {
    const pid_t quire = experiment.Start();
    const bool there = QuireExperiment::WaitUntil(quire, [&] {
      // A run is at work when there is its log.
      return LinesOf(experiment.out() + "/results.jsonl").size() >= after &&
             (after > 0 || access((experiment.out() + "/runs.log").c_str(), F_OK) == 0);
    });
    EXPECT_TRUE(there);
    kill(quire, SIGKILL);
    const ProgramEnd end = experiment.Wait(quire);
    // The last run may have been quicker than the signal.
    EXPECT_TRUE(end.code() == 128 + SIGKILL || experiment.Runs() == kSixRuns) << end.said;
    // Without waiting for what it has left: that is for the next one to put up with.
  }
  const ProgramEnd end = experiment.Run();
  EXPECT_EQ(end.code(), 0) << end.said;
  EXPECT_EQ(experiment.Runs(), kSixRuns);
  // Those that have lost their parent end by themselves.
  QuireExperiment::WaitForOrphans();
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
}

// One that would go on for an hour.
constexpr char kEndless[] = R"(
repetitions = 2
[run]
accel = "soft"
pool = "32M"
[guests.a]
memory = "8M"
workload = "zipf:operations=1000"
[guests.b]
memory = "8M"
[[phases]]
seconds = 3600
)";

TEST(SoftExperimentTest, ARunInProgressDiesWithTheExperiment) {
  const QuireExperiment experiment(kEndless);
  const pid_t quire = experiment.Start();
  // A run is at work when there is its log.
  ASSERT_TRUE(
      QuireExperiment::WaitUntil(quire, [&] { return access((experiment.out() + "/runs.log").c_str(), F_OK) == 0; }));
  kill(quire, SIGKILL);
  EXPECT_EQ(experiment.Wait(quire).code(), 128 + SIGKILL);
  // Or the test does not end.
  QuireExperiment::WaitForOrphans();
  EXPECT_TRUE(experiment.Results().empty());
}

TEST(SoftExperimentTest, InterruptedItDiesOfTheSignalAndKeepsWhatHasEnded) {
  for (const int number : {SIGINT, SIGTERM}) {
    // The first run ends by itself, the second does not.
    const QuireExperiment experiment(
        absl::StrCat(kEndless, "[matrix]\nguests.b.workload = [\"zipf:operations=1000\", \"zipf\"]\n"));
    const pid_t quire = experiment.Start();
    ASSERT_TRUE(QuireExperiment::WaitUntil(
        quire, [&] { return absl::StrContains(Contents(experiment.directory() + "/said"), "2 of 4"); }));
    kill(quire, number);
    const ProgramEnd end = experiment.Wait(quire);
    EXPECT_EQ(end.code(), 128 + number) << end.said;
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_THAT(end.said, Not(HasSubstr("The page:")));
    EXPECT_EQ(experiment.Runs(), std::multiset<std::string>{"guests.b.workload=zipf:operations=1000 repetition=1"});
  }
}

}  // namespace
}  // namespace quire
