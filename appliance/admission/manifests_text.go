package admission

// clusterYAML is what runs in the cluster.
const clusterYAML = `apiVersion: v1
kind: Namespace
metadata:
  name: {{.Namespace}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
{{- if .PullSecret}}
imagePullSecrets: [{name: {{.PullSecret}}}]
{{- end}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
rules:
- {apiGroups: [""], resources: [secrets], verbs: [create]}
- {apiGroups: [""], resources: [secrets], resourceNames: [{{.Name}}-tls], verbs: [get, update]}
- {apiGroups: [""], resources: [configmaps], verbs: [create]}
- {apiGroups: [""], resources: [configmaps], resourceNames: [{{receipts}}], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{.Name}}}
subjects: [{kind: ServiceAccount, name: {{.Name}}, namespace: {{.Namespace}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: {{.Name}}}
rules:
- {apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations], resourceNames: [{{.Name}}], verbs: [get, patch]}
- {apiGroups: [""], resources: [events], verbs: [create]}
{{- if .Reports}}
- {apiGroups: [wgpolicyk8s.io], resources: [policyreports], verbs: [get, create, update]}
- {apiGroups: [openreports.io], resources: [reports], verbs: [get, create, update]}
{{- end}}
{{- if .PullSecrets}}
- {apiGroups: [""], resources: [secrets, serviceaccounts], verbs: [get]}
{{- end}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: {{.Name}}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{.Name}}}
subjects: [{kind: ServiceAccount, name: {{.Name}}, namespace: {{.Namespace}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
binaryData:
{{- range $name := names}}
  {{quote $name}}: {{b64 (index $.Files $name)}}
{{- end}}
---
apiVersion: v1
kind: Service
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
spec:
  selector: {app: {{.Name}}}
  ports: [{name: webhook, port: 443, targetPort: {{.Port}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: {{.Name}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{.Name}}, namespace: {{.Namespace}}}
spec:
  replicas: {{.Replicas}}
  selector: {matchLabels: {app: {{.Name}}}}
  template:
    metadata: {labels: {app: {{.Name}}}}
    spec:
      serviceAccountName: {{.Name}}
      priorityClassName: system-cluster-critical
      securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: {{.Name}}}}}
      containers:
      - name: gate
        image: {{quote .Image}}
        args: [admission, serve, --admission-config, /etc/redoubt/admission/{{.ConfigName}}]
        ports: [{name: webhook, containerPort: {{.Port}}}]
        readinessProbe: {httpGet: {path: /readyz, port: {{.Port}}, scheme: HTTPS}, periodSeconds: 5}
        livenessProbe: {httpGet: {path: /healthz, port: {{.Port}}, scheme: HTTPS}, periodSeconds: 20, failureThreshold: 6}
        resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 256Mi}}
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        volumeMounts:
        - {name: config, mountPath: /etc/redoubt/admission, readOnly: true}
        - {name: state, mountPath: {{quote .State}}}
        - {name: tmp, mountPath: /tmp}
{{- if .Approvals}}
        - {name: approvals, mountPath: {{quote .Approvals}}, readOnly: true}
{{- end}}
      volumes:
      - {name: config, configMap: {name: {{.Name}}}}
      - {name: tmp, emptyDir: {}}
{{- if .Approvals}}
      - {name: approvals, configMap: {name: {{.Name}}-approvals, optional: true}}
{{- end}}
{{- if .Claim}}
      - {name: state, persistentVolumeClaim: {claimName: {{.Claim}}}}
{{- else}}
      - {name: state, emptyDir: {}} # receipts are shared in ConfigMaps; the record of what passed ends with the pod, --state-claim keeps it
{{- end}}
---
`

// webhookYAML makes the API server ask.
const webhookYAML = `{{define "webhook"}}
  admissionReviewVersions: [v1]
  failurePolicy: Fail
  matchPolicy: Equivalent
  sideEffects: NoneOnDryRun
  timeoutSeconds: {{.Timeout}}
  matchConditions:
  - name: not-the-gate-itself
    expression: {{quote exempt}}
  rules:
{{resources}}{{end -}}
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: {{.Name}}}
webhooks:
- name: pin.redoubt.internal
  reinvocationPolicy: IfNeeded
  clientConfig:
{{client "/mutate"}}
{{- template "webhook" .}}---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: {{.Name}}}
webhooks:
- name: allow.redoubt.internal
  clientConfig:
{{client "/validate"}}
{{- template "webhook" .}}`
