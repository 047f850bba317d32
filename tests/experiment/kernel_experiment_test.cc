// An experiment with the host kernel's side, on this host: it is killed in the middle, leaves the host as it was, and
// goes on. It takes root, and nobody else who compares kernels.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/experiment/quire_experiment.h"
#include "vmm/baseline/real_host.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr char kBoth[] = R"(
repetitions = 2
[run]
accel = "soft"
pool = "32M"
merge = "on"
seconds = 0.3
[guests.a]
count = 2
memory = "16M"
[matrix]
engine = ["quire", "kernel", "kernel-best"]
)";
const std::multiset<std::string> kBothRuns = {"engine=quire repetition=1",       "engine=kernel repetition=1",
                                              "engine=kernel-best repetition=1", "engine=quire repetition=2",
                                              "engine=kernel repetition=2",      "engine=kernel-best repetition=2"};

class KernelExperimentTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = ObstacleToBaseline(); !why.empty()) {
      GTEST_SKIP() << "NOTHING ABOUT EXPERIMENTS WITH THE HOST KERNEL IS TESTED HERE: " << why;
    }
    before_ = HostSettingsNow();
  }
  // Whether any setting is another. A journal without any change in it is there before its janitor is; nobody but the
  // next experiment takes it away then.
  bool HostHasChanged() const {
    const auto settings = [](std::map<std::string, std::string> all) {
      std::erase_if(all, [](const auto& one) { return absl::StartsWith(one.first, "/run/"); });
      return all;
    };
    return settings(HostSettingsNow()) != settings(before_);
  }
  // The janitor undoes what one that was killed has changed; it ends when it has.
  void ExpectNothingLeft() const {
    QuireExperiment::WaitForOrphans();
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(HostSettingsNow(), before_);
  }

  std::map<std::string, std::string> before_;
};

TEST_F(KernelExperimentTest, KilledAtAnyPointItLeavesTheHostAsItWasAndGoesOn) {
  const QuireExperiment experiment(kBoth);
  for (const size_t after : {0, 1, 2, 4}) {
    const pid_t quire = experiment.Start();
    const bool there = QuireExperiment::WaitUntil(
        quire, [&] { return LinesOf(experiment.out() + "/results.jsonl").size() >= after && HostHasChanged(); });
    kill(quire, SIGKILL);
    const ProgramEnd end = experiment.Wait(quire);
    ASSERT_TRUE(there) << end.said;
    EXPECT_EQ(end.code(), 128 + SIGKILL) << end.said;
    ExpectNothingLeft();
  }
  const ProgramEnd end = experiment.Run();
  EXPECT_EQ(end.code(), 0) << end.said;
  ExpectNothingLeft();
  EXPECT_EQ(experiment.Runs(), kBothRuns);
  for (const Json& result : experiment.Results()) {
    // The kernel now and then kills what has swap space enough.
    EXPECT_NE(result["outcome"], "failed") << result["run"] << ": " << result["reason"];
    if (result["outcome"] != "ok") continue;
    EXPECT_EQ(result["values"]["mismatched_pages"], 0);
    EXPECT_GT(result["values"]["operations_per_second"], 0);
    EXPECT_EQ(result["report"]["engine"], result["point"]["engine"] == "quire" ? "quire" : "kernel");
    EXPECT_GT(result["values"]["memory_bytes"], 0);
  }
}

TEST_F(KernelExperimentTest, InterruptedItLeavesTheHostAsItWas) {
  const QuireExperiment experiment(kBoth);
  const pid_t quire = experiment.Start();
  const bool there = QuireExperiment::WaitUntil(
      quire, [&] { return absl::StrContains(Contents(experiment.directory() + "/said"), "2 of 6"); });
  kill(quire, SIGINT);
  const ProgramEnd end = experiment.Wait(quire);
  ASSERT_TRUE(there) << end.said;
  EXPECT_EQ(end.code(), 128 + SIGINT) << end.said;
  // It has done so itself by now.
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(HostSettingsNow(), before_);
  EXPECT_GE(experiment.Results().size(), 1u);
}

}  // namespace
}  // namespace quire
