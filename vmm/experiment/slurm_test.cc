// Slurm's commands are played by shell scripts. tests/experiment has one with the real ones.
#include "vmm/experiment/slurm.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <set>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "vmm/baseline/killed_process.h"
#include "vmm/experiment/plan.h"
#include "vmm/experiment/subprocess.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Get(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> Lines(const std::string& path) { return absl::StrSplit(Get(path), '\n', absl::SkipEmpty()); }

TEST(ArrayOfTest, NeighboursBecomeRanges) {
  EXPECT_EQ(ArrayOf({}), "");
  EXPECT_EQ(ArrayOf({5}), "5");
  EXPECT_EQ(ArrayOf({0, 1, 2, 3, 7}), "0-3,7");
  EXPECT_EQ(ArrayOf({0, 2, 4, 5}), "0,2,4-5");
}

// Two settings with both engines, twice: four tasks of two runs each.
constexpr char kText[] = R"(
repetitions = 2
[guests.a]
memory = "64M"
[matrix]
merge = ["on", "off"]
engine = ["quire", "kernel"]
)";

class SlurmTest : public testing::Test {
 protected:
  // Whatever a directory may be called.
  SlurmTest()
      : directory_(absl::StrCat(testing::TempDir(), "/slurm-",
                                testing::UnitTest::GetInstance()->current_test_info()->name(), "-it's 50%a $HOME\\n")) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_ + "/bin");
    setenv("PATH", absl::StrCat(directory_, "/bin:/usr/bin:/bin").c_str(), 1);
    setenv("TEST_PLACE", directory_.c_str(), 1);
    std::ofstream(directory_ + "/some.toml") << kText;
    const RunLimits limits = {.host_memory = ByteCount::GiB(4),
                              .guest_address_space = ByteCount::GiB(512),
                              .minimum_pool = ByteCount(),
                              .check_workload = [](absl::string_view) { return absl::OkStatus(); }};
    absl::StatusOr<Experiment> experiment = ReadExperiment(directory_ + "/some.toml", false, limits);
    if (!experiment.ok()) std::cerr << experiment.status() << std::endl;
    if (experiment.ok()) experiment_ = *std::move(experiment);
    // What sbatch is told, with what to read; squeue knows of nothing.
    Command("sbatch",
            "printf '%s\\n' \"$*\" >>\"$TEST_PLACE/sbatch\"\ncat >\"$TEST_PLACE/script\"\necho '42;cluster'\n");
    Command("squeue", "");
    Command("scancel", "printf '%s\\n' \"$*\" >>\"$TEST_PLACE/scancel\"\n");
  }

  void Command(const std::string& name, const std::string& script) const {
    const std::string path = directory_ + "/bin/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << script;
    chmod(path.c_str(), 0755);
  }
  // What a task leaves that has run to its end.
  void TaskHasRun(size_t task) const {
    const std::string path = absl::StrCat(out(), "/tasks/", task);
    std::filesystem::create_directories(path);
    std::ofstream file(path + "/results.jsonl");
    const std::vector<RunGroup> groups = PlanRuns(experiment_);
    for (const PlannedRun& run : groups[task]) file << Json{{"run", run.name()}, {"task", task}} << "\n";
  }
  absl::Status Run(const std::optional<std::string>& more = {}) {
    said_.str("");
    const SlurmOptions options = {.out = out(), .options = more, .poll = absl::Milliseconds(1)};
    const std::function<Terminal()> terminal = [] { return Terminal{}; };
    return RunOnSlurm(experiment_, options, said_, terminal);
  }
  std::string out() const { return directory_ + "/out"; }
  std::vector<std::string> Submitted() const { return Lines(directory_ + "/sbatch"); }
  std::multiset<std::string> Results() const {
    std::multiset<std::string> runs;
    for (const std::string& line : Lines(out() + "/results.jsonl")) runs.insert(Json::parse(line)["run"]);
    return runs;
  }
  std::multiset<std::string> AllRuns() const {
    std::multiset<std::string> runs;
    for (const RunGroup& group : PlanRuns(experiment_)) {
      for (const PlannedRun& run : group) runs.insert(run.name());
    }
    return runs;
  }

  const std::string directory_;
  Experiment experiment_;
  std::ostringstream said_;
};

TEST_F(SlurmTest, TheScriptOfATaskRunsThisProgramWhateverPathsHold) {
  Command("program", "printf '[%s]\\n' \"$@\"\n");
  experiment_.quick = true;
  setenv("SLURM_ARRAY_TASK_ID", "7", 1);
  const absl::StatusOr<std::string> said =
      RunProgram({"sh"}, TaskScript(directory_ + "/bin/program", experiment_, "out 'of' $(echo it)\n\""));
  ASSERT_TRUE(said.ok()) << said.status();
  EXPECT_EQ(*said, absl::StrCat("[experiment]\n[", std::filesystem::canonical(experiment_.file).native(),
                                "]\n[--out=out 'of' $(echo it)\n\"]\n[--quick]\n[--task=7]\n"));
}

TEST_F(SlurmTest, SubmitsAllTasksAndGathersWhatTheyHaveDone) {
  for (size_t task = 0; task < 4; ++task) TaskHasRun(task);
  std::filesystem::rename(out() + "/tasks", directory_ + "/later");
  // They run, then they have.
  Command("squeue",
          "printf '%s\\n' \"$*\" >>\"$TEST_PLACE/squeue\"\n"
          "[ $(wc -l <\"$TEST_PLACE/squeue\") -gt 2 ] || exec echo 42_0 running\n"
          "cp -r \"$TEST_PLACE\"/later/* \"$TEST_PLACE/out/tasks\"\n");
  EXPECT_EQ(Run(), absl::OkStatus());
  ASSERT_EQ(Submitted().size(), 1u);
  EXPECT_THAT(Submitted()[0], HasSubstr("--parsable --job-name=quire-some --array=0-3 --output="));
  EXPECT_THAT(Submitted()[0], HasSubstr("50%%a $HOME\\n/out/tasks/slurm-%a.log --exclusive"));
  EXPECT_THAT(Get(directory_ + "/script"), HasSubstr("--task=\"$SLURM_ARRAY_TASK_ID\""));
  EXPECT_THAT(Lines(directory_ + "/squeue")[0], HasSubstr("--jobs=42"));
  EXPECT_THAT(said_.str(), HasSubstr("Slurm job 42: 4 tasks"));
  EXPECT_THAT(said_.str(), HasSubstr("8 of 8 runs have ended"));
  EXPECT_EQ(Results(), AllRuns());

  // There is nothing left to be submitted.
  EXPECT_EQ(Run(), absl::OkStatus());
  EXPECT_EQ(Submitted().size(), 1u);
  EXPECT_EQ(Results(), AllRuns());
}

TEST_F(SlurmTest, OptionsOfTheUserTakeThePlaceOfOurs) {
  for (size_t task = 0; task < 4; ++task) TaskHasRun(task);
  std::filesystem::rename(out() + "/tasks/2", directory_ + "/later");
  Command("squeue", "mv \"$TEST_PLACE/later\" \"$TEST_PLACE/out/tasks/2\"\n");
  EXPECT_EQ(Run("--partition=kvm  --nice"), absl::OkStatus());
  EXPECT_THAT(Submitted()[0], HasSubstr("--array=2 "));
  EXPECT_TRUE(absl::EndsWith(Submitted()[0], "slurm-%a.log --partition=kvm --nice"));
}

TEST_F(SlurmTest, TasksThatAreLostAreNamedAndSubmittedTheNextTime) {
  TaskHasRun(0);
  TaskHasRun(3);
  const absl::Status lost = Run();
  EXPECT_TRUE(absl::IsInternal(lost));
  EXPECT_THAT(std::string(lost.message()), HasSubstr("4 runs of 8 left no result"));
  EXPECT_THAT(Submitted(), ElementsAre(HasSubstr("--array=1-2 ")));
  EXPECT_EQ(Results().size(), 4u);

  TaskHasRun(1);
  TaskHasRun(2);
  EXPECT_EQ(Run(), absl::OkStatus());
  EXPECT_EQ(Submitted().size(), 1u);
  EXPECT_EQ(Results(), AllRuns());
}

TEST_F(SlurmTest, ATaskThatHasDoneHalfIsSubmittedAgain) {
  for (size_t task = 0; task < 4; ++task) TaskHasRun(task);
  const std::string path = out() + "/tasks/1/results.jsonl";
  const std::string first = Lines(path)[0];
  std::ofstream(path) << first << "\n{\"run\":\"half of a l";
  EXPECT_FALSE(Run().ok());
  EXPECT_THAT(Submitted(), ElementsAre(HasSubstr("--array=1 ")));
  EXPECT_EQ(Results().size(), 7u);
}

TEST_F(SlurmTest, WhySbatchRefusesIsSaid) {
  Command("sbatch", "echo 'sbatch: error: invalid partition specified: kvm' >&2\nexit 1\n");
  const absl::Status status = Run();
  EXPECT_TRUE(absl::IsInternal(status));
  EXPECT_EQ(status.message(), "sbatch failed: sbatch: error: invalid partition specified: kvm");
}

TEST_F(SlurmTest, WithoutSlurmItSaysWhatToInstall) {
  std::filesystem::remove(directory_ + "/bin/sbatch");
  setenv("PATH", (directory_ + "/bin").c_str(), 1);
  const absl::Status status = Run();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("apt install slurm-client"));
}

// Its controller is away, and then has forgotten the job.
TEST_F(SlurmTest, ASqueueThatFailsIsAskedAgain) {
  for (size_t task = 0; task < 3; ++task) TaskHasRun(task);
  Command("squeue",
          "echo >>\"$TEST_PLACE/squeue\"\n"
          "[ $(wc -l <\"$TEST_PLACE/squeue\") -gt 3 ] || { echo 'Unable to contact slurm controller' >&2; exit 1; }\n"
          "echo 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n");
  EXPECT_THAT(std::string(Run().message()), HasSubstr("2 runs of 8 left no result"));
}

TEST_F(SlurmTest, ASqueueThatFailsForGoodEndsTheWait) {
  TaskHasRun(0);
  Command("squeue", "echo 'Unable to contact slurm controller' >&2\nexit 1\n");
  EXPECT_THAT(std::string(Run().message()),
              HasSubstr("it cannot be told how Slurm job 42 goes on: squeue failed: Unable to contact"));
  EXPECT_EQ(Results().size(), 2u);
  std::filesystem::remove(directory_ + "/bin/squeue");
  setenv("PATH", absl::StrCat(directory_, "/bin:", directory_, "/tools").c_str(), 1);
  std::filesystem::create_directories(directory_ + "/tools");
  std::filesystem::create_symlink("/bin/cat", directory_ + "/tools/cat");
  EXPECT_THAT(std::string(Run().message()), HasSubstr("it cannot be told how Slurm job 42 goes on: cannot run squeue"));
}

TEST_F(SlurmTest, InterruptedItCancelsTheJobAndKeepsWhatHasEnded) {
  TaskHasRun(1);
  Command("squeue", "kill -INT $PPID\necho 42_0 running\n");
  // The signal is noted for the rest of a process.
  const int status = WaitForChild(StartChild([&] { _exit(absl::IsCancelled(Run()) ? 7 : 1); }));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  EXPECT_THAT(Lines(directory_ + "/scancel"), ElementsAre("42"));
  EXPECT_EQ(Results().size(), 2u);
}

TEST_F(SlurmTest, ATasksNumberIsNotNegative) {
  const std::function<Terminal()> terminal = [] { return Terminal{}; };
  EXPECT_TRUE(absl::IsInvalidArgument(RunSlurmTask(experiment_, out(), -1, RealHost(), said_, terminal)));
}

}  // namespace
}  // namespace quire
