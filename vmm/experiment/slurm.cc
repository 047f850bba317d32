#include "vmm/experiment/slurm.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/experiment/plan.h"
#include "vmm/experiment/results_file.h"
#include "vmm/experiment/runner.h"
#include "vmm/experiment/subprocess.h"
#include "vmm/interrupt.h"
#include "vmm/text.h"

namespace quire {
namespace {

// A controller may be away for a while. A job that Slurm has forgotten, and says so in other words, is not waited for
// for ever.
constexpr int kMostFailures = 60;  // of squeue, in a row
constexpr absl::string_view kDefaultOptions = "--exclusive";

std::string Quoted(absl::string_view word) {
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

std::string TaskDirectory(const std::string& out, size_t task) { return absl::StrCat(out, "/tasks/", task); }

std::string AbsolutePath(const std::string& path) {
  char resolved[PATH_MAX];
  return realpath(path.c_str(), resolved) == nullptr ? path : resolved;
}

class SlurmRun {
 public:
  SlurmRun(const Experiment& experiment, const SlurmOptions& options, std::ostream& out,
           const std::function<Terminal()>& terminal)
      : experiment_(experiment), options_(options), out_(out), terminal_(terminal), groups_(PlanRuns(experiment)) {
    for (const RunGroup& group : groups_) {
      for (const PlannedRun& run : group) runs_.insert(run.name());
    }
  }

  absl::Status Run();

 private:
  // Tasks that have something left to do.
  std::vector<size_t> TasksLeft() const;
  absl::Status Gather();
  absl::StatusOr<std::string> Submit(const std::vector<size_t>& tasks);
  // Until none of the job's tasks is waiting or running. Errors: Cancelled; squeue's.
  absl::Status Await(const std::string& job);
  void Show();

  const Experiment& experiment_;
  const SlurmOptions& options_;
  std::ostream& out_;
  const std::function<Terminal()>& terminal_;
  const std::vector<RunGroup> groups_;
  std::set<std::string> runs_;
  std::unique_ptr<ResultsFile> results_;
  size_t shown_ = 0;
};

absl::Status SlurmRun::Run() {
  absl::StatusOr<std::unique_ptr<ResultsFile>> results = ResultsFile::Open(options_.out, experiment_);
  if (!results.ok()) return results.status();
  results_ = *std::move(results);
  // What tasks of an earlier job have done.
  if (absl::Status status = Gather(); !status.ok()) return status;
  const std::vector<size_t> tasks = TasksLeft();
  if (tasks.empty()) return absl::OkStatus();
  CatchInterrupts();
  const absl::StatusOr<std::string> job = Submit(tasks);
  if (!job.ok()) return job.status();
  out_ << "Slurm job " << *job << ": " << Plural(tasks.size(), "task") << ", their output in " << options_.out
       << "/tasks.\n"
       << std::flush;
  const absl::Status awaited = Await(*job);
  if (absl::Status status = Gather(); !status.ok()) return status;
  if (!awaited.ok()) return awaited;
  const size_t missing = runs_.size() - results_->size();
  if (missing == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(Plural(missing, "run"), " of ", runs_.size(),
                                          " left no result: ", options_.out,
                                          "/tasks/slurm-N.log say why; started again, it runs what is "
                                          "missing"));
}

std::vector<size_t> SlurmRun::TasksLeft() const {
  std::set<size_t> tasks;
  for (size_t i = 0; i < groups_.size(); ++i) {
    for (const PlannedRun& run : groups_[i]) {
      if (!results_->Has(run.name())) tasks.insert(TaskOf(i));
    }
  }
  return {tasks.begin(), tasks.end()};
}

absl::Status SlurmRun::Gather() {
  for (size_t task = 0; task < groups_.size() && task < kMostTasks; ++task) {
    const std::string path = TaskDirectory(options_.out, task) + "/results.jsonl";
    if (absl::Status status = results_->Gather(path, runs_); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SlurmRun::Submit(const std::vector<size_t>& tasks) {
  const std::string directory = absl::StrCat(options_.out, "/tasks");
  if (mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("make ", directory));
  }
  char program[PATH_MAX] = {};
  if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) {
    return absl::ErrnoToStatus(errno, "find this program's own file");
  }
  std::vector<std::string> words = {
      "sbatch", "--parsable", absl::StrCat("--job-name=quire-", experiment_.name),
      absl::StrCat("--array=", ArrayOf(tasks)),
      absl::StrCat("--output=", absl::StrReplaceAll(AbsolutePath(directory), {{"%", "%%"}}), "/slurm-%a.log")};
  for (const absl::string_view option :
       absl::StrSplit(options_.options.value_or(std::string(kDefaultOptions)), ' ', absl::SkipEmpty())) {
    words.push_back(std::string(option));
  }
  const absl::StatusOr<std::string> answer =
      RunProgram(words, TaskScript(program, experiment_, AbsolutePath(options_.out)));
  if (absl::IsFailedPrecondition(answer.status())) {
    return absl::FailedPreconditionError(absl::StrCat(
        answer.status().message(), ": --slurm needs Slurm's commands; on Debian: apt install slurm-client"));
  }
  if (!answer.ok()) return answer.status();
  // "1234" or "1234;cluster".
  return std::string(absl::StripAsciiWhitespace(answer->substr(0, answer->find(';'))));
}

absl::Status SlurmRun::Await(const std::string& job) {
  for (int failures = 0;;) {
    if (CaughtInterrupt() != 0) {
      (void)RunProgram({"scancel", job});
      return absl::CancelledError("interrupted");
    }
    const absl::StatusOr<std::string> queue = RunProgram({"squeue", "--noheader", absl::StrCat("--jobs=", job)});
    if (absl::Status status = Gather(); !status.ok()) return status;
    Show();
    // A job that has ended is forgotten after a while, and asking for it fails then.
    const bool over = queue.ok() ? absl::StripAsciiWhitespace(*queue).empty()
                                 : absl::StrContains(queue.status().message(), "Invalid job id");
    if (over) return absl::OkStatus();
    failures = queue.ok() ? 0 : failures + 1;
    if (absl::IsFailedPrecondition(queue.status()) || failures == kMostFailures) {
      return absl::Status(queue.status().code(),
                          absl::StrCat("it cannot be told how Slurm job ", job, " goes on: ", queue.status().message(),
                                       "; started again once it has ended, the experiment gathers its results"));
    }
    absl::SleepFor(options_.poll);
  }
}

void SlurmRun::Show() {
  if (results_->size() == shown_) return;
  shown_ = results_->size();
  out_ << absl::StrCat(terminal_().interactive ? "\r" : "", shown_, " of ", runs_.size(), " runs have ended",
                       terminal_().interactive && shown_ < runs_.size() ? "" : "\n")
       << std::flush;
}

}  // namespace

std::string TaskScript(const std::string& program, const Experiment& experiment, const std::string& out) {
  return absl::StrCat("#!/bin/sh\nexec ", Quoted(program), " experiment ", Quoted(AbsolutePath(experiment.file)),
                      " --out=", Quoted(out), experiment.quick ? " --quick" : "", " --task=\"$SLURM_ARRAY_TASK_ID\"\n");
}

std::string ArrayOf(const std::vector<size_t>& tasks) {
  std::string array;
  for (size_t i = 0; i < tasks.size(); ++i) {
    const size_t first = i;
    while (i + 1 < tasks.size() && tasks[i + 1] == tasks[i] + 1) ++i;
    absl::StrAppend(&array, array.empty() ? "" : ",", tasks[first]);
    if (i > first) absl::StrAppend(&array, "-", tasks[i]);
  }
  return array;
}

absl::Status RunOnSlurm(const Experiment& experiment, const SlurmOptions& options, std::ostream& out,
                        const std::function<Terminal()>& terminal) {
  return SlurmRun(experiment, options, out, terminal).Run();
}

absl::Status RunSlurmTask(const Experiment& experiment, const std::string& out_directory, int task, const Host& host,
                          std::ostream& out, const std::function<Terminal()>& terminal) {
  if (task < 0) return absl::InvalidArgumentError("--task is the number of a task, from 0");
  const size_t number = static_cast<size_t>(task);
  return RunExperiment(experiment, {.out = TaskDirectory(out_directory, number), .task = number}, host, out, terminal);
}

}  // namespace quire
