#include "vmm/experiment/results_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "vmm/files.h"

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr absl::Duration kPatience = absl::Seconds(3);

std::string Dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

absl::Status CannotUse(const std::string& directory, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("--out=", directory, " cannot take the results: ", why, "; name another directory"));
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Json DescribeExperiment(const Experiment& experiment) {
  Json axes = Json::array();
  for (const Axis& axis : experiment.axes) axes.push_back({{"name", axis.name}, {"values", axis.values}});
  return {{"form", kResultsForm},       {"name", experiment.name},
          {"asks", experiment.asks},    {"about", experiment.about},
          {"file", experiment.text},    {"quick", experiment.quick},
          {"axes", std::move(axes)},    {"repetitions", experiment.repetitions},
          {"charts", experiment.charts}};
}

absl::StatusOr<std::unique_ptr<ResultsFile>> ResultsFile::Open(const std::string& directory,
                                                               const Experiment& experiment) {
  if (mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST) return CannotUse(directory, std::strerror(errno));
  auto file = absl::WrapUnique(new ResultsFile(directory));
  if (absl::Status status = file->Lock(); !status.ok()) return status;
  if (absl::Status status = file->Describe(experiment); !status.ok()) return status;
  if (absl::Status status = file->ReadDone(); !status.ok()) return status;
  return file;
}

absl::Status ResultsFile::Lock() {
  lock_ = UniqueFd(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock_.valid()) return CannotUse(directory_, std::strerror(errno));
  // The run of an experiment that was killed has the lock too, until it is gone.
  for (const MonotonicTime give_up = RealClock().Now() + kPatience; RealClock().Now() < give_up;) {
    if (flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("another experiment writes to ", directory_, ": wait for its end, or name another directory"));
}

absl::Status ResultsFile::Describe(const Experiment& experiment) {
  const std::string path = directory_ + "/experiment.json";
  const Json description = DescribeExperiment(experiment);
  const std::string there = ReadAll(path);
  if (there.empty()) return WriteWhole(path, Dump(description, 2) + "\n");
  const Json before = Json::parse(there, nullptr, /*allow_exceptions=*/false);
  if (before == Json::parse(Dump(description))) return absl::OkStatus();
  if (before.is_object() && before.value("name", Json()) == experiment.name) {
    return CannotUse(directory_, absl::StrCat("it has those of ", experiment.file, " as it was at another time, or ",
                                              experiment.quick ? "without" : "with", " --quick"));
  }
  return CannotUse(directory_, "it has those of another experiment");
}

absl::Status ResultsFile::ReadDone() {
  const std::string path = directory_ + "/results.jsonl";
  results_ = UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  struct stat info;
  if (!results_.valid() || fstat(results_.get(), &info) != 0) return CannotUse(directory_, std::strerror(errno));
  const std::string text = ReadAll(path);
  if (text.size() != static_cast<size_t>(info.st_size)) return CannotUse(directory_, "results.jsonl cannot be read");
  size_t begin = 0;
  for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (line.is_object() && line.contains("run") && line["run"].is_string()) done_.insert(line["run"]);
    begin = end + 1;
  }
  if (ftruncate(results_.get(), static_cast<off_t>(begin)) != 0) return CannotUse(directory_, std::strerror(errno));
  return absl::OkStatus();
}

absl::Status ResultsFile::Gather(const std::string& path, const std::set<std::string>& runs) {
  std::istringstream lines(ReadAll(path));
  for (std::string line; std::getline(lines, line);) {
    const Json result = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!result.is_object() || !result.contains("run") || !result["run"].is_string()) continue;
    const std::string run = result["run"];
    if (Has(run) || !runs.contains(run)) continue;
    if (absl::Status status = Append(result); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ResultsFile::Append(const Json& result) {
  if (!WriteAll(results_.get(), Dump(result) + "\n") || fsync(results_.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("write to ", directory_, "/results.jsonl"));
  }
  done_.insert(result["run"].get<std::string>());
  return absl::OkStatus();
}

size_t CountFailed(const std::string& directory) {
  std::istringstream lines(ReadAll(directory + "/results.jsonl"));
  size_t failed = 0;
  for (std::string line; std::getline(lines, line);) {
    const Json result = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto outcome = result.is_object() ? result.find("outcome") : result.end();
    failed += outcome != result.end() && *outcome == "failed";
  }
  return failed;
}

}  // namespace quire
