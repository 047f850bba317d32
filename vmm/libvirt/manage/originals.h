// How a host and its domains were before they were changed, in a journal (vmm/baseline/journal_file.h): so that all of
// it can be put back, by the next process too if this one is killed. Each line is one record:
//
//   {"domain":"6695eb01-...","id":3,"name":"web","undo":"balloon","value":4194304}     KiB
//   {"domain":"6695eb01-...","id":3,"name":"web","undo":"soft_limit","value":0}        KiB; 0: none
//   {"domain":"6695eb01-...","id":3,"name":"web","undo":"stats_period","value":0}      seconds
//   {"undo":"ksm_pages_to_scan","value":100}
//   {"undo":"ksm_sleep_millisecs","value":20}
//   {"undo":"ksm_run","value":0}                                                      of this host
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_ORIGINALS_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_ORIGINALS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/baseline/journal_file.h"
#include "vmm/libvirt/connection.h"

namespace quire {

struct Original {
  enum class Kind : uint8_t { kBalloon, kSoftLimit, kStatsPeriod, kKsmPages, kKsmSleep, kKsmRun };
  Kind kind = Kind::kBalloon;
  // Of which domain, and since which start of it; what is not of a domain has none.
  std::string domain = {};
  int id = 0;
  std::string name = {};
  uint64_t value = 0;
  friend bool operator==(const Original&, const Original&) = default;
};

std::string ToLine(const Original& original);
// Error: InvalidArgument.
absl::StatusOr<Original> ParseOriginal(absl::string_view line);
// What is so when it has been put back: "web has 4 GiB".
std::string Describe(const Original& original);

// Puts it back. A domain that has gone, or was started anew since, needs nothing. `root` stands before the paths of
// this host's files, for tests. Errors: those of the connection; what writing files reports.
absl::Status PutBack(const Original& original, LibvirtConnection& host, const std::string& root = "");

// Belongs to one thread.
class Originals {
 public:
  // For the host at `uri`, in this directory, which is made if need be. What a killed process has left behind there is
  // in it. Errors: FailedPrecondition: another process manages this host; what system calls report.
  static absl::StatusOr<Originals> Open(const std::string& directory, const std::string& uri);

  // Before a change is made. What is remembered already, of this start of the domain, stays as it was.
  // Errors: what writing the journal reports; the change must not be made then.
  absl::Status Remember(const Original& original);
  // The change was not made.
  void Forget(const Original& original);
  // Those domains are there, and no others: what is remembered of others is forgotten, some time.
  void Keep(const std::vector<DomainSummary>& domains);
  const Original* Find(Original::Kind kind, absl::string_view domain, int id) const;

  // Puts everything back, last thing first. `say` gets a sentence about each that cannot be. Error: Unavailable: there
  // is no connection any more; what is left is still remembered.
  absl::Status PutBackAll(LibvirtConnection& host, const std::string& root,
                          const std::function<void(const std::string&)>& say);
  // Nothing is to be put back any more.
  void Remove() { file_.Remove(); }

  const std::vector<Original>& records() const { return records_; }
  const std::string& path() const { return file_.path(); }
  // Who has left behind what was there when it was opened; 0: nobody.
  pid_t left_by() const { return left_by_; }

 private:
  Originals(JournalFile file, std::string directory) : file_(std::move(file)), directory_(std::move(directory)) {}

  JournalFile file_;
  std::string directory_;
  std::vector<Original> records_;  // one for each line
  pid_t left_by_ = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_ORIGINALS_H_
