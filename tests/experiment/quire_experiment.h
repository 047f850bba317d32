// `quire experiment` as users start it, in tests.
#ifndef QUIRE_TESTS_EXPERIMENT_QUIRE_EXPERIMENT_H_
#define QUIRE_TESTS_EXPERIMENT_QUIRE_EXPERIMENT_H_

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace quire {

// What is in a file; empty if there is none.
std::string Contents(const std::string& path);
std::vector<std::string> LinesOf(const std::string& path);

struct ProgramEnd {
  int status = -1;  // as waitpid has it
  std::string said = {};
  // 128 and the signal, if it was one.
  int code() const;
};

// An experiment's file, and directories for its results. All that it starts and that outlives its parent becomes this
// process's child.
class QuireExperiment {
 public:
  // In a new directory. `text` is the file.
  explicit QuireExperiment(absl::string_view text);
  ~QuireExperiment();
  QuireExperiment(const QuireExperiment&) = delete;
  QuireExperiment& operator=(const QuireExperiment&) = delete;

  const std::string& directory() const { return directory_; }
  std::string file() const { return directory_ + "/some.toml"; }
  std::string out() const { return directory_ + "/out"; }

  // Starts `quire experiment FILE --out=OUT` and more; this process's environment is its own.
  pid_t Start(const std::vector<std::string>& more = {}, const std::string& out = "") const;
  // Waits for its end.
  ProgramEnd Wait(pid_t quire) const;
  ProgramEnd Run(const std::vector<std::string>& more = {}, const std::string& out = "") const {
    return Wait(Start(more, out));
  }
  // Waits until `done()`, or the program has ended: false.
  template <class Done>
  static bool WaitUntil(pid_t quire, Done done) {
    while (!done()) {
      if (HasEnded(quire)) return done();
    }
    return true;
  }
  // Waits for everything that was started and has lost its parent.
  static void WaitForOrphans();

  // Each line of results.jsonl; every one is whole.
  std::vector<nlohmann::json> Results(const std::string& out = "") const;
  std::multiset<std::string> Runs(const std::string& out = "") const;

 private:
  // After a moment.
  static bool HasEnded(pid_t quire);

  std::string directory_ = "/tmp/quire-experiment-XXXXXX";
};

}  // namespace quire

#endif  // QUIRE_TESTS_EXPERIMENT_QUIRE_EXPERIMENT_H_
