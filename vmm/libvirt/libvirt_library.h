// libvirt's client library, loaded when it is first needed: the program is linked statically, and libvirt brings two
// dozen libraries along that only those who use it need.
#ifndef QUIRE_VMM_LIBVIRT_LIBVIRT_LIBRARY_H_
#define QUIRE_VMM_LIBVIRT_LIBVIRT_LIBRARY_H_

#if !__has_include(<libvirt/libvirt.h>)
#error "libvirt's headers are missing: install libvirt-dev (tools/dev setup), or build with --config=no_libvirt"
#endif
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include "absl/status/statusor.h"

namespace quire {

// The functions of libvirt.so.0 that are used, each as <libvirt/libvirt.h> declares and documents it.
struct LibvirtLibrary {
  decltype(&virInitialize) initialize;
  decltype(&virSetErrorFunc) set_error_func;
  decltype(&virGetLastError) get_last_error;
  decltype(&virEventRegisterDefaultImpl) event_register_default_impl;
  decltype(&virEventRunDefaultImpl) event_run_default_impl;
  decltype(&virConnectOpenAuth) connect_open_auth;
  decltype(&virConnectClose) connect_close;
  decltype(&virConnectIsAlive) connect_is_alive;
  decltype(&virConnectSetKeepAlive) connect_set_keep_alive;
  decltype(&virConnectGetHostname) connect_get_hostname;
  decltype(&virConnectGetURI) connect_get_uri;
  decltype(&virConnectGetCapabilities) connect_get_capabilities;
  decltype(&virConnectListAllDomains) connect_list_all_domains;
  decltype(&virDomainLookupByName) domain_lookup_by_name;
  decltype(&virDomainLookupByUUIDString) domain_lookup_by_uuid_string;
  decltype(&virDomainFree) domain_free;
  decltype(&virDomainGetName) domain_get_name;
  decltype(&virDomainGetUUIDString) domain_get_uuid_string;
  decltype(&virDomainGetID) domain_get_id;
  decltype(&virDomainGetState) domain_get_state;
  decltype(&virDomainGetInfo) domain_get_info;
  decltype(&virDomainGetXMLDesc) domain_get_xml_desc;
  decltype(&virDomainMemoryStats) domain_memory_stats;
  decltype(&virDomainSetMemoryStatsPeriod) domain_set_memory_stats_period;
  decltype(&virDomainSetMemoryFlags) domain_set_memory_flags;
  decltype(&virDomainGetMemoryParameters) domain_get_memory_parameters;
  decltype(&virDomainSetMemoryParameters) domain_set_memory_parameters;
  decltype(&virDomainDefineXMLFlags) domain_define_xml_flags;
  decltype(&virDomainCreateXML) domain_create_xml;
  decltype(&virDomainCreate) domain_create;
  decltype(&virDomainResume) domain_resume;
  decltype(&virDomainShutdown) domain_shutdown;
  decltype(&virDomainDestroy) domain_destroy;
  decltype(&virDomainUndefineFlags) domain_undefine_flags;
  decltype(&virNodeGetInfo) node_get_info;
  decltype(&virNodeGetMemoryStats) node_get_memory_stats;
  decltype(&virNodeGetMemoryParameters) node_get_memory_parameters;
  decltype(&virNodeSetMemoryParameters) node_set_memory_parameters;
};

// Loads and initializes it the first time and keeps it for the life of the program. Thread safe.
// Errors: FailedPrecondition  it is not installed, or lacks a function; says what to install
absl::StatusOr<const LibvirtLibrary*> LoadLibvirtLibrary();

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_LIBVIRT_LIBRARY_H_
