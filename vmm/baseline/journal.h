// A journal (journal_file.h) of changes of this host, of which each line says how to undo one; Apply() puts up with one
// that has not been made.
//
//   {"target":"/sys/kernel/mm/ksm/run","undo":"write","value":"0"}
#ifndef QUIRE_VMM_BASELINE_JOURNAL_H_
#define QUIRE_VMM_BASELINE_JOURNAL_H_

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "vmm/baseline/journal_file.h"
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
  void Remove() { file_.Remove(); }

  const std::vector<Undo>& records() const { return records_; }
  const std::string& path() const { return file_.path(); }
  // Whether the host has been started anew since: nothing of what was changed is left.
  bool outdated() const { return file_.outdated(); }
  // Whose changes these are; 0 if its first line does not say.
  pid_t process() const { return file_.process(); }

 private:
  explicit Journal(JournalFile file) : file_(std::move(file)) {}

  JournalFile file_;
  std::vector<Undo> records_;
  std::vector<size_t> at_;  // which line each is
};

// Does what the records of `journal` from the one numbered `first` on say, last one first, and takes each out of it.
// Where all of them are meant, the processes in cgroups are killed before anything else: what they use is to go. What
// fails is said on `err`, in a sentence, and given up. `at_step`, if there is one, is called between the steps.
void PlayBack(Journal& journal, size_t first, const SwapCalls& swap, std::ostream& err,
              const std::function<void()>& at_step = nullptr);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_JOURNAL_H_
