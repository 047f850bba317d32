// The directory that an experiment's results go to, which a run that was interrupted finds again.
//
//   experiment.json   the experiment, as it was read
//   results.jsonl     a line for each run that has ended
//   runs.log          what runs wrote to standard error
#ifndef QUIRE_VMM_EXPERIMENT_RESULTS_FILE_H_
#define QUIRE_VMM_EXPERIMENT_RESULTS_FILE_H_

#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "nlohmann/json.hpp"
#include "vmm/experiment/experiment.h"

namespace quire {

// The form of both files.
inline constexpr int kResultsForm = 1;

// What experiment.json holds.
nlohmann::json DescribeExperiment(const Experiment& experiment);

// Belongs to one thread, and the directory to one of these at a time.
class ResultsFile {
 public:
  // Makes the directory, if need be. Errors: InvalidArgument, it cannot be made, or it has results of something else;
  // FailedPrecondition, another process writes to it.
  static absl::StatusOr<std::unique_ptr<ResultsFile>> Open(const std::string& directory, const Experiment& experiment);

  // Appends the lines of another such file, but for runs that are there already, or that `experiment` does not have.
  // A file that is not there has none. Errors: what write reports.
  absl::Status Gather(const std::string& path, const std::set<std::string>& runs);
  // Whether the run has ended, now or earlier.
  bool Has(const std::string& run) const { return done_.contains(run); }
  size_t size() const { return done_.size(); }
  // Appends a line, in one step: whoever reads finds all of it or nothing. Errors: what write reports.
  absl::Status Append(const nlohmann::json& result);

  const std::string& directory() const { return directory_; }
  std::string log() const { return directory_ + "/runs.log"; }

 private:
  explicit ResultsFile(const std::string& directory) : directory_(directory) {}
  absl::Status Lock();
  absl::Status Describe(const Experiment& experiment);
  // Reads what is there, and cuts off a last line that was not written to its end.
  absl::Status ReadDone();

  const std::string directory_;
  UniqueFd lock_;
  UniqueFd results_;
  std::set<std::string> done_;
};

// How many of the runs in a directory of results have failed: a guest died, or read a wrong byte.
size_t CountFailed(const std::string& directory);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_RESULTS_FILE_H_
