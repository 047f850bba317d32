#include "vmm/exit_status.h"

namespace quire {

ExitStatus ToExitStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitStatus::kAllWell;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ExitStatus::kBadInput;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kUnavailable:
      return ExitStatus::kHostLacks;
    case absl::StatusCode::kResourceExhausted:
      return ExitStatus::kOutOfMemory;
    default:
      return ExitStatus::kGuestFailed;
  }
}

}  // namespace quire
