#include "tests/experiment/quire_experiment.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace quire {

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<std::string> LinesOf(const std::string& path) {
  return absl::StrSplit(Contents(path), '\n', absl::SkipEmpty());
}

int ProgramEnd::code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

QuireExperiment::QuireExperiment(absl::string_view text) {
  QUIRE_CHECK(mkdtemp(directory_.data()) != nullptr);
  QUIRE_CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  std::ofstream(file()) << text;
}

QuireExperiment::~QuireExperiment() { std::filesystem::remove_all(directory_); }

pid_t QuireExperiment::Start(const std::vector<std::string>& more, const std::string& out) const {
  std::vector<std::string> words = {"quire", "experiment", file(), "--out=" + (out.empty() ? this->out() : out)};
  words.insert(words.end(), more.begin(), more.end());
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const std::string said = directory_ + "/said";
  unlink(said.c_str());
  const pid_t child = fork();
  QUIRE_CHECK(child >= 0);
  if (child > 0) return child;
  const int fd = open(said.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(fd, STDOUT_FILENO);
  dup2(fd, STDERR_FILENO);
  close(fd);
  execv("vmm/quire", argv.data());
  _exit(127);
}

ProgramEnd QuireExperiment::Wait(pid_t quire) const {
  ProgramEnd end;
  while (waitpid(quire, &end.status, 0) < 0 && errno == EINTR) {
  }
  end.said = Contents(directory_ + "/said");
  return end;
}

bool QuireExperiment::HasEnded(pid_t quire) {
  absl::SleepFor(absl::Milliseconds(2));
  siginfo_t info = {};
  return waitid(P_PID, static_cast<id_t>(quire), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == quire;
}

void QuireExperiment::WaitForOrphans() {
  while (wait(nullptr) > 0 || errno == EINTR) {
  }
}

std::vector<nlohmann::json> QuireExperiment::Results(const std::string& out) const {
  std::vector<nlohmann::json> results;
  const std::string text = Contents((out.empty() ? this->out() : out) + "/results.jsonl");
  QUIRE_CHECK(text.empty() || text.back() == '\n');
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    results.push_back(nlohmann::json::parse(line));
  }
  return results;
}

std::multiset<std::string> QuireExperiment::Runs(const std::string& out) const {
  std::multiset<std::string> runs;
  for (const nlohmann::json& result : Results(out)) runs.insert(result["run"]);
  return runs;
}

}  // namespace quire
