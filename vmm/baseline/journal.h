// The file that says how to undo what a process has changed on this host, so that it is undone even if that process is
// killed. Each line is written before the change that it undoes is made, and taken off after it has been undone: at any
// moment the file holds all that is to be undone, and perhaps one thing more, which Apply() puts up with.
//
//   {"boot":"0c7f...","process":4242,"started":123456}      whose changes, and since when the host has been up
//   {"target":"/sys/kernel/mm/ksm/run","undo":"write","value":"0"}
//   ...
//
// Whoever holds the file's lock (flock) may use it. docs/locking.md has what happens when processes are killed.
#ifndef QUIRE_VMM_BASELINE_JOURNAL_H_
#define QUIRE_VMM_BASELINE_JOURNAL_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "vmm/baseline/undo.h"

namespace quire {

// Belongs to one thread.
class Journal {
 public:
  // Makes a new file and locks it: nobody else may look for journals at that time. Errors: what system calls report.
  static absl::StatusOr<Journal> Create(const std::string& path);
  // Reads one that is there, `fd`, which the caller has locked. A last line that is not complete is left out: its
  // change was not made. A line that says nothing is said on `err`, and left out.
  // Errors: what system calls report.
  static absl::StatusOr<Journal> Read(UniqueFd fd, const std::string& path, std::ostream& err);

  // A change is to be made that `undo` undoes. Errors: what system calls report; the change must not be made then.
  absl::Status Add(const Undo& undo);
  // The last `count` are undone, or were never made. Errors: what system calls report.
  absl::Status DropLast(size_t count = 1);
  // Nobody needs it any more: others that wait for its lock find it gone.
  void Remove();

  const std::vector<Undo>& records() const { return records_; }
  const std::string& path() const { return path_; }
  // Whether the host has been started anew since: nothing of what was changed is left.
  bool outdated() const { return outdated_; }
  // Whose changes these are; 0 if its first line does not say.
  pid_t process() const { return process_; }

 private:
  Journal(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  absl::Status Append(const std::string& line);
  void ReadFirstLine(absl::string_view line);

  UniqueFd fd_;
  std::string path_;
  std::vector<Undo> records_;
  std::vector<off_t> begins_;  // of each record in the file
  off_t end_ = 0;
  bool outdated_ = false;
  pid_t process_ = 0;
};

// Whether the process that the journal `fd` belongs to is still there. It need not be locked.
bool IsOwnerAlive(int fd);

// flock, but for signals. False: somebody else has the lock, and `operation` says not to wait.
bool Lock(int fd, int operation);

// Does what the records of `journal` from the one numbered `first` on say, last one first, and takes each out of it.
// Where all of them are meant, the processes in cgroups are killed before anything else: what they use is to go. What
// fails is said on `err`, in a sentence, and given up. `at_step`, if there is one, is called between the steps.
void PlayBack(Journal& journal, size_t first, const SwapCalls& swap, std::ostream& err,
              const std::function<void()>& at_step = nullptr);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_JOURNAL_H_
