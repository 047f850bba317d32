// `quire manage`: looks at a host's domains, round after round, and steers them by a policy.
#ifndef QUIRE_VMM_LIBVIRT_MANAGE_MANAGER_H_
#define QUIRE_VMM_LIBVIRT_MANAGE_MANAGER_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/manage/policy.h"

namespace quire {

struct ManageOptions {
  std::string uri;
  Policy policy = {};
  bool dry_run = false;  // only say what would be done
  bool once = false;     // one round; what is changed stays
  bool undo = false;     // only put back what an earlier process has left changed
};

// What tests put in the place of libvirt, the host and time.
struct ManageSeams {
  std::function<absl::StatusOr<std::unique_ptr<LibvirtConnection>>(LibvirtAccess)> open;
  std::function<bool()> interrupted;  // whether it is to end
  std::function<void(absl::Duration)> sleep;
  std::function<absl::Time()> time;  // of the day
  const Clock* clock = nullptr;
  std::string root = {};      // stands before the paths of the host's files
  std::string journals = {};  // the directory
};
ManageSeams RealManageSeams(const std::string& uri);

// Until it is interrupted, or for a round. What it does is said on `out`, in a line for each change, and what goes
// wrong on `err`. When it ends, everything is put back; if this process is killed, the next one for this host does
// that.
//
// A host that cannot be reached any more is tried again and again, less and less often; domains come and go.
//
// Errors: FailedPrecondition: libvirt is missing, another process manages this host, or the policy asks for what the
// host does not have; PermissionDenied, Unavailable: those of the first connection; what writing the journal reports.
absl::Status ManageDomains(const ManageOptions& options, const ManageSeams& seams, std::ostream& out,
                           std::ostream& err);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_MANAGE_MANAGER_H_
