// What a PC's processors say of themselves.
#ifndef QUIRE_VMM_KVM_PC_CPUID_H_
#define QUIRE_VMM_KVM_PC_CPUID_H_

#include "vmm/kvm/kvm_system.h"

namespace quire {

// The CPUID of processor `vcpu` (its APIC id too) of `vcpus` in one package, without threads: what KVM supports here,
// with the topology of this machine, and of KVM's own features the clock alone. Those left out (asynchronous page
// faults, stolen time, a cheaper end of interrupt, ...) have KVM write to the guest's memory at moments when a piece of
// it may be about to be replaced, and a failure of that is the guest's.
// AMD's processors are said to recover from lost memory (MCA overflow recovery and SUCCOR), which takes nothing of KVM
// but that machine checks can be raised: without it Linux panics at each of them.
// `tsc_deadline`: KVM's APIC timer has that mode (KVM_CAP_TSC_DEADLINE_TIMER), which KVM_GET_SUPPORTED_CPUID does not
// say. Pure.
// Source: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst.
// Source of these bits: QEMU, kvm_arch_get_supported_cpuid; Linux, mce_severity_amd.
CpuidTable PcCpuid(const CpuidTable& supported, int vcpu, int vcpus, bool tsc_deadline);

// Whether it is that of a processor of AMD's, or of Hygon's, which are like those.
bool IsAmd(const CpuidTable& cpuid);

}  // namespace quire

#endif  // QUIRE_VMM_KVM_PC_CPUID_H_
