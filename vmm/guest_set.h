// The guests of a run, put together: content, program, memory manager and machines, ready to be started.
#ifndef QUIRE_VMM_GUEST_SET_H_
#define QUIRE_VMM_GUEST_SET_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "guest/guest_limits.h"
#include "guest/memory_manager.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/console_file.h"
#include "vmm/console_listener.h"
#include "vmm/guest_consoles.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/machine/kvm_machine.h"
#include "vmm/machine/pc_machine.h"
#include "vmm/machine/soft_machine.h"
#include "vmm/machine/vm_machine.h"
#include "vmm/machine/work.h"
#include "vmm/options.h"
#include "vmm/scheduled_guests.h"
#include "vmm/terminal_console.h"
#include "workloads/content_file.h"
#include "workloads/workload_spec.h"

namespace quire {

// The least pool that `options.guests` guests can run in.
ByteCount MinimumPool(const RunOptions& options);

// The most memory that a guest can have.
ByteCount GuestAddressSpace();

// Belongs to one thread.
class GuestSet final : public ScheduledGuests {
 public:
  struct Guest {
    std::string name;
    size_t group = 0;               // of RunOptions::Groups()
    ByteCount size = {};            // of its memory
    GuestMemory* memory = nullptr;  // null: the host kernel has it
    std::unique_ptr<Machine> machine;
    VmMachine* vm = nullptr;                   // the machine, if KVM runs it, and ...
    KvmMachine* kvm = nullptr;                 // ... if that is a program's, ...
    PcMachine* pc = nullptr;                   // ... or a PC
    SoftMachine* soft = nullptr;               // the machine, if the processor runs it
    const ConsoleListener* console = nullptr;  // of a PC

    // As the guest claims it. A PC's operations are what it says of them on its console.
    Machine::Progress ReadProgress() const;
  };

  // `options` outlives the set, and passed Validate and CheckFiles; options.accel is kKvm or kSoft. `workload` is what
  // the guests do unless options.payload names a program. May fork: to be called before threads are started.
  static absl::StatusOr<std::unique_ptr<GuestSet>> Create(const RunOptions& options, const WorkloadSpec& workload);
  // Every machine has been joined, or was never started.
  ~GuestSet() override;

  // Starts the guests, but for those of groups that the schedule starts; with options.clones, the one that is to be
  // cloned.
  void Start();
  // Whether that one has come to its freeze point.
  bool AtFreezePoint() const { return options_.clones > 0 && guests_.front().machine->at_freeze_point(); }
  struct CloneTimes {
    absl::Duration freeze;               // from the end of the guest's last vCPU to a template
    std::vector<absl::Duration> clones;  // for each to be made, ready to be started
    ByteCount pool_each;                 // of the pool that a clone took in being made, on average
    ByteCount metadata_each;             // and of memory beside it
  };
  // Freezes it, makes its clones, and starts them. They follow it in guests().
  absl::StatusOr<CloneTimes> StartClones();
  void RequestStop();
  // Of those that have been started.
  bool AllFinished() const;
  // Whether the user has asked, at a guest's console, for an end of it all.
  bool UserWantsToQuit() const { return terminal_ != nullptr && terminal_->wants_to_quit(); }
  void Join();

  // In the order of GuestMemory::id().
  const std::vector<Guest>& guests() const { return guests_; }
  // Null where the host kernel has the memory.
  MemoryManager* manager() { return manager_.get(); }
  GuestConsoles& console() { return console_; }

  // --- ScheduledGuests
  size_t count() const override { return guests_.size(); }
  size_t GroupOf(size_t guest) const override { return guests_[guest].group; }
  State StateOf(size_t guest) const override;
  void StartGuest(size_t guest) override { guests_[guest].machine->Start(); }
  void StopGuest(size_t guest) override { guests_[guest].machine->RequestStop(); }
  void SetIdle(size_t guest, int percent) override { guests_[guest].machine->SetIdle(percent); }
  void SetBalloon(size_t guest, ByteCount size) override;
  GuestTotals CountAll() const override;

  // LZ4 ratio of the pages' content; 0 for a payload.
  double content_ratio() const { return content_ratio_; }

 private:
  explicit GuestSet(const RunOptions& options) : options_(options), groups_(options.Groups()) {}

  bool managed() const { return options_.engine == Engine::kQuire; }
  absl::Status Prepare(const WorkloadSpec& workload);
  absl::Status PrepareContent(const WorkloadSpec& workload);
  absl::Status PrepareManager();
  // Once everything is there that guests' memory has to share the pool with.
  absl::Status CheckMemoryOffer();
  absl::Status PrepareProgram();
  absl::Status AddGroup(size_t group);
  // Of the guest of a group that has this number in it.
  std::string NameOf(size_t group, int number) const;
  // A guest of a group, and of all the one with this number.
  absl::Status AddGuest(size_t group, const std::string& name, int number);
  // From now on the guest is among guests(), and is ended when its memory is stopped.
  void Publish(Guest guest) ABSL_LOCKS_EXCLUDED(publish_lock_);
  absl::Status AddClone(int number);
  // A clone, unless `clone` is 0.
  absl::Status AddMachine(Guest& guest, uint64_t seed, uint64_t clone);
  absl::Status AddSoftMachine(Guest& guest, uint64_t seed, uint64_t clone);
  absl::Status AddKvmMachine(Guest& guest, uint64_t seed, uint64_t clone);
  absl::Status AddPcMachine(Guest& guest, int number);
  const GuestGroup& GroupOf(const Guest& guest) const { return groups_[guest.group]; }
  absl::Status OpenKvm();
  absl::Status PrepareKernel();
  // Keys of the user's terminal.
  void Type(absl::string_view keys) ABSL_LOCKS_EXCLUDED(publish_lock_);
  // Where the guest's console leads for the user.
  absl::StatusOr<std::function<void(absl::string_view)>> OpenConsole(const Guest& guest, int number);
  GuestLimits LimitsOfGuest() const;
  // Whether this process may use more CPUs than the guests have vCPUs.
  bool HasSpareCpu() const;
  void OnStopped(GuestMemory& memory, const absl::Status& reason);

  const RunOptions& options_;
  const std::vector<GuestGroup> groups_;
  std::optional<ContentFile> content_file_;
  std::vector<Work> works_;  // one for each group
  double content_ratio_ = 0;
  std::string payload_;  // the user's program
  ElfImage program_;
  std::string kernel_file_, initrd_file_;  // the user's
  std::optional<KernelImage> kernel_;
  std::optional<KvmSystem> kvm_;
  std::unique_ptr<MemoryManager> manager_;
  GuestConsoles console_;
  std::vector<std::unique_ptr<ConsoleFile>> console_files_;
  std::vector<std::unique_ptr<ConsoleListener>> listeners_;
  std::unique_ptr<TerminalConsole> terminal_;
  absl::Mutex publish_lock_;   // held while guests_ grows, and while others than this thread look at it
  std::vector<Guest> guests_;  // which never moves
};

}  // namespace quire

#endif  // QUIRE_VMM_GUEST_SET_H_
